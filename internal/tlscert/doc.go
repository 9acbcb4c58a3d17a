// Package tlscert keeps a server's certificate up to date with its files, so that a renewed one needs no restart.
package tlscert
