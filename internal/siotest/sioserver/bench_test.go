package sioserver

import (
	"bufio"
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/siotest/sioserver/wire"
)

// BenchmarkBroadcast measures an event to many clients over loopback TCP, the
// clients' reading included.
func BenchmarkBroadcast(b *testing.B) {
	for _, clients := range []int{10, 1000} {
		b.Run(fmt.Sprint(clients), func(b *testing.B) {
			s := New(Options{})
			ts := httptest.NewServer(s)
			defer ts.Close()
			defer s.Close()
			var received sync.WaitGroup
			for range clients {
				nc, br, _, err := ws.Dial(b.Context(), "ws"+strings.TrimPrefix(ts.URL, "http")+
					"/socket.io/?EIO=4&transport=websocket")
				if err != nil {
					b.Fatal(err)
				}
				defer nc.Close()
				if br == nil {
					br = bufio.NewReader(nc)
				}
				received.Add(1)
				go benchClient(nc, br, &received)
			}
			received.Wait() // all are connected
			b.ReportAllocs()
			for b.Loop() {
				received.Add(clients)
				s.Emit("news", "of the world", 42)
				received.Wait()
			}
		})
	}
}

// benchClient connects to the main namespace and counts what it receives. It
// ends with its connection.
func benchClient(nc net.Conn, br *bufio.Reader, received *sync.WaitGroup) {
	in := wire.NewMessageReader(br, ws.StateClientSide, 0)
	if _, _, err := in.Next(); err != nil { // the handshake
		return
	}
	if ws.WriteFrame(nc, ws.MaskFrame(ws.NewTextFrame([]byte("40")))) != nil {
		return
	}
	for {
		op, _, err := in.Next()
		if err != nil || op == ws.OpClose {
			nc.Close()
			return
		}
		received.Done()
	}
}
