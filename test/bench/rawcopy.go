//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// rawCopyMain is a proxy that only copies bytes between each client and its own
// connection to the given address. It prints its port, and exits at the end of
// its standard input.
func rawCopyMain(args []string) error {
	if len(args) != 1 {
		return errors.New("rawcopy: want the upstream's address")
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { // ends the process
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Println(ln.Addr().(*net.TCPAddr).Port)
	for {
		client, err := ln.Accept()
		if err != nil {
			return err
		}
		go rawCopy(client, args[0])
	}
}

// rawCopy serves one client until either side closes.
func rawCopy(client net.Conn, upstream string) {
	defer client.Close()
	server, err := net.Dial("tcp4", upstream)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		copyBytes(server, client)
		server.Close()
	}()
	copyBytes(client, server)
}

// copyBytes is io.Copy without splice(2), which costs an extra system call for
// small messages.
func copyBytes(dst io.Writer, src io.Reader) {
	_, _ = io.Copy(struct{ io.Writer }{dst}, struct{ io.Reader }{src})
}
