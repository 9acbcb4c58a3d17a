package accept

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"
)

// Every way to read a connection returns its buffered bytes first.
func TestTrackedConnReadsBufferedBytesFirst(t *testing.T) {
	read := func(c net.Conn) string {
		got, err := io.ReadAll(struct{ io.Reader }{c})
		return fmt.Sprint(string(got), err)
	}
	writeTo := func(c net.Conn) string {
		var b bytes.Buffer
		_, err := io.Copy(&b, c)
		return fmt.Sprint(b.String(), err)
	}
	inSteps := func(c net.Conn) string {
		p := make([]byte, 3)
		n, _ := c.Read(p)
		u := string(c.(interface{ Unread() []byte }).Unread())
		return string(p[:n]) + u + read(c)
	}
	for _, network := range []string{"tcp", "unix"} {
		for i, way := range []func(c net.Conn) string{read, writeTo, inSteps} {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = filepath.Join(t.TempDir(), "s")
			}
			ln, err := net.Listen(network, address)
			if err != nil {
				t.Fatal(err)
			}
			peer, err := net.Dial(network, ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			conn, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			left := 0
			c := track(conn, func() { left++ }, bufferedBytes{unread: []byte("before, ")})
			_, _ = io.WriteString(peer, "after")
			peer.Close()
			if got := way(c); got != "before, after<nil>" {
				t.Errorf("%s, way %d: read %s", network, i, got)
			}
			c.Close()
			ln.Close()
			if left != 1 {
				t.Errorf("closed was called %d times", left)
			}
		}
	}
}
