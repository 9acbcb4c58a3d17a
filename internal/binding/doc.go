// Package binding ties sessions to credentials in a client's handshake and CONNECT (recovery.bind).
package binding
