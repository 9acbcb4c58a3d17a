package netpoll_test

import (
	"io"
	"net"
	"path/filepath"
	"testing"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// echo is a Handler that writes what it reads.
type echo struct {
	s      netpoll.Stream
	closed chan struct{}
}

func (e *echo) Read(p []byte) { e.s.Write(p) }
func (e *echo) Flush()        {}
func (e *echo) Drained()      {}
func (e *echo) Closed(error)  { close(e.closed) }

// BenchmarkEcho measures the path of a small message: it is read and written back to the peer,
// which waits for it.
func BenchmarkEcho(b *testing.B) {
	for _, n := range networks {
		b.Run(n.name, func(b *testing.B) {
			ours, peer := n.pair(b)
			e := &echo{closed: make(chan struct{})}
			e.s = n.new(ours, e)
			e.s.Start(nil)
			msg := make([]byte, 128)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := peer.Write(msg); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(peer, msg); err != nil {
					b.Fatal(err)
				}
			}
			e.s.Close()
			<-e.closed
		})
	}
}

// BenchmarkOpen measures the life of a connection that is dialled, becomes a Stream and ends.
func BenchmarkOpen(b *testing.B) {
	ln, err := net.Listen("unix", filepath.Join(b.TempDir(), "s")) // uses no ports
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	go func() { // returns when ln is closed
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		c, err := netpoll.Dial(b.Context(), ln.Addr(), waitLimit)
		if err != nil {
			b.Fatal(err)
		}
		e := &echo{closed: make(chan struct{})}
		e.s = netpoll.New(c, e)
		e.s.Start(nil)
		<-e.closed
	}
}
