package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/siotest/imitation"
)

// raceYeast is the parameter t of the handshakes.
const raceYeast = "PXyzA1b"

// stay keeps a client alive until its connection ends.
func (p *peer3) stay() {
	for n := 0; ; n++ {
		if !p.polls {
			f, err := ws.ReadFrame(p.in)
			if err != nil {
				return
			}
			if f.Header.OpCode == ws.OpPing {
				p.write(ws.NewPongFrame(f.Payload))
			}
			continue
		}
		_, _ = fmt.Fprintf(p.conn, "GET /socket.io/?EIO=3&transport=polling&%s&sid=%s&t=%s.%d HTTP/1.1\r\nHost: app\r\n\r\n",
			p.query, p.sid, raceYeast, n) // the answer tells
		resp, err := http.ReadResponse(p.in, nil)
		if err != nil {
			return
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return
		}
	}
}

// handshake3 sends a handshake of Engine.IO 3, and returns the client and the status of the answer.
func handshake3(t *testing.T, url, query string, polls bool) (*peer3, int) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Error(err)
		return nil, 0
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute)) // fails only if it is closed
	transport, head := "polling&t="+raceYeast, ""
	if !polls {
		transport = "websocket"
		head = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	}
	_, _ = fmt.Fprintf(conn, "GET /socket.io/?EIO=3&transport=%s&%s HTTP/1.1\r\nHost: app\r\n%s\r\n", transport, query, head) // the answer tells
	p := &peer3{t: t, query: query, conn: conn, in: bufio.NewReader(conn), polls: polls}
	resp, err := http.ReadResponse(p.in, nil)
	if err != nil {
		t.Error(err)
		return p, 0
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		body := make([]byte, resp.ContentLength)
		if _, err := resp.Body.Read(body); err != nil && len(body) == 0 {
			t.Error(err)
		}
		p.handle(body)
	}
	return p, resp.StatusCode
}

// Two handshakes with one key at the same time both find that the client before is gone. One of them
// gets its session. The other one is not left without any: it has to ask again, and is told then
// that the key is in use.
func TestTwoHandshakesRaceForTheirKey(t *testing.T) {
	for _, polls := range []bool{false, true} {
		t.Run(fmt.Sprintf("polls %v", polls), func(t *testing.T) {
			r, _ := newRigOf(t, imitation.Python, nil)
			const query = "hf_key=0123456789abcdef"
			set := *r.proxy.settings()
			set.aliveTimeout = 20 * time.Second
			r.proxy.current.Store(&set)
			before := dial3(t, r.url, query, false, -1)
			before.read(func() bool { return len(before.connected) > 0 })

			var staying sync.WaitGroup
			t.Cleanup(staying.Wait) // the proxy is shut down only after this, so connections must be closed first
			type outcome struct {
				p      *peer3
				status int
			}
			outcomes := make(chan outcome, 2)
			for range 2 {
				go func() { // ends with the answer, or with the session
					p, status := handshake3(t, r.url, query, polls)
					if status == http.StatusOK || status == http.StatusSwitchingProtocols {
						staying.Go(p.stay) // ends with the connection
					}
					outcomes <- outcome{p, status}
				}()
			}
			r.await("both to ask the client before", func() bool {
				asked := &r.proxy.asked
				asked.mu.Lock()
				defer asked.mu.Unlock()
				for _, who := range asked.waiting {
					if len(who) == 2 {
						return true
					}
				}
				return false
			})
			before.conn.Close()
			all := []outcome{<-outcomes, <-outcomes}
			slices.SortFunc(all, func(a, b outcome) int { return a.status - b.status })
			if all[0].status >= 300 || all[1].status != http.StatusServiceUnavailable {
				t.Fatalf("the handshakes are answered with %d and %d; want one session, and 503", all[0].status, all[1].status)
			}
			r.await("one client", func() bool { return len(r.proxy.conns.allClients()) == 1 })
			if live, parked := r.proxy.registry.Counts(); live != 1 || parked != 0 {
				t.Errorf("%d sessions are live, %d parked", live, parked)
			}
			again := dial3(t, r.url, query, false, -1)
			again.read(func() bool { return len(again.connected) > 0 })
			if got := r.logs.String(); !strings.Contains(got, keyInUseText) {
				t.Error("the later client is not told that its key is in use")
			}
			again.conn.Close()
			all[0].p.conn.Close()
		})
	}
}
