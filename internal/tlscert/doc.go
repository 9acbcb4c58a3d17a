// Package tlscert reloads a server's certificate when its files change, so that a renewal needs no
// restart.
package tlscert
