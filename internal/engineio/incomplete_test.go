package engineio

import (
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
)

// memory is a Handler.Incomplete with a limit.
type memory struct {
	limit int64
	used  atomic.Int64
}

func (m *memory) take(n int) bool {
	if used := m.used.Add(int64(n)); n <= 0 || used <= m.limit {
		return true
	}
	m.used.Add(int64(-n))
	return false
}

var incompleteOptions = Options{PingInterval: time.Minute, PingTimeout: time.Minute, MaxPayload: 1 << 20}

func TestIncompleteMessagesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{limit: 100 << 10}
		_, h, p := openPipe(t, incompleteOptions)
		h.memory = m
		part := []byte("4" + strings.Repeat("x", 40<<10))
		p.writeBytes(t, fragment(ws.OpText, false, string(part[:smallBytes])).bytes())
		synctest.Wait()
		if used := m.used.Load(); used != 0 {
			t.Errorf("%d bytes are counted of a small one", used)
		}
		p.writeBytes(t, fragment(0, false, string(part[smallBytes:])).bytes())
		synctest.Wait()
		if used := m.used.Load(); used != int64(len(part)) {
			t.Errorf("%d bytes are counted, want %d", used, len(part))
		}
		p.writeBytes(t, fragment(0, true, "end").bytes())
		h.await(t, "message 4"+string(part[1:])+"end")
		synctest.Wait()
		if used := m.used.Load(); used != 0 {
			t.Errorf("%d bytes are counted of a message that is whole", used)
		}
	})
}

func TestIncompleteMessagesWithoutMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{limit: 100 << 10}
		_, h, p := openPipe(t, incompleteOptions)
		h.memory = m
		p.writeBytes(t, fragment(ws.OpText, false, "4"+strings.Repeat("x", 60<<10)).bytes())
		// It may be refused before all of it is read.
		_, _ = p.conn.Write(fragment(0, false, strings.Repeat("x", 60<<10)).bytes())
		p.want(t, "close:1013", "EOF")
		p.conn.Close()
		h.await(t, "closed: parse error")
		synctest.Wait()
		if used := m.used.Load(); used != 0 {
			t.Errorf("%d bytes are counted after the end", used)
		}
	})
}

func TestPostWithoutMemory(t *testing.T) {
	m := &memory{limit: 100 << 10}
	s, h := openPolling(t, incompleteOptions)
	h.memory = m
	wantPost(t, s, "a1", "4"+strings.Repeat("x", 90<<10), "200 ok")
	h.took()
	a, ok := s.Post(t.Context(), "a2", "", -1, strings.NewReader("4"+strings.Repeat("x", 200<<10)))
	if a.Status != 503 || !ok {
		t.Errorf("answered %d, %v, want 503", a.Status, ok)
	}
	if got := h.took(); len(got) > 0 {
		t.Errorf("the handler got %.100q", got)
	}
	wantPost(t, s, "a3", "4hello", "200 ok")
	if used := m.used.Load(); used != 0 {
		t.Errorf("%d bytes are still counted", used)
	}
}

// A server's incomplete messages count too, over either transport, and end the connection if there
// is no memory for them.
func TestServersIncompleteMessages(t *testing.T) {
	part := strings.Repeat("x", 60<<10)
	for _, tt := range []struct {
		name  string
		parts int
		want  error
	}{
		{"with memory", 1, nil},
		{"without", 2, ErrNoMemory},
	} {
		t.Run(tt.name+", by WebSocket", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &memory{limit: 100 << 10}
				s := newPipeServer(t)
				s.dialer.Incomplete = m.take
				c, p := dialSocket(t, s)
				l := begin(t, c)
				p.writeBytes(t, rawFrame{first: byte(ws.OpText), payload: "4" + part}.bytes())
				synctest.Wait()
				if used := m.used.Load(); used != int64(len(part)+1) {
					t.Errorf("%d bytes are counted, want %d", used, len(part)+1)
				}
				for range tt.parts - 1 {
					_, _ = p.conn.Write(rawFrame{payload: part}.bytes()) // may be refused earlier
				}
				if tt.want != nil {
					p.conn.Close()
					l.wantClosed(t, tt.want)
				} else {
					p.writeBytes(t, rawFrame{first: fin, payload: "end"}.bytes())
					l.want(t, "4"+part+"end")
				}
				synctest.Wait()
				if used := m.used.Load(); used != 0 {
					t.Errorf("%d bytes are still counted", used)
				}
			})
		})
		t.Run(tt.name+", by polling", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &memory{limit: 100 << 10}
				s := newPipeServer(t)
				s.dialer.Incomplete = m.take
				l := begin(t, dialPolling(t, s, nil))
				body := "4" + strings.Repeat(part, tt.parts)
				conn := s.poll(t).hijack(t)
				// It may not be read to its end.
				_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
				if tt.want != nil {
					l.wantClosed(t, tt.want)
				} else {
					s.poll(t)
					l.want(t, body)
				}
				synctest.Wait()
				if used := m.used.Load(); used != 0 {
					t.Errorf("%d bytes are still counted", used)
				}
			})
		})
	}
}

// pausingHandler pauses its Conn when a part of a message has arrived.
type pausingHandler struct {
	*connLog
	conn *Conn
}

func (h *pausingHandler) Incomplete(bytes int) bool {
	if bytes > 0 {
		h.conn.Pause()
	}
	return true
}

func TestMemoryHandlerPauses(t *testing.T) {
	begin := func(c *Conn) *pausingHandler {
		h := &pausingHandler{newConnLog(), c}
		c.Start(h)
		return h
	}
	part := strings.Repeat("x", 60<<10)
	for _, tt := range []struct {
		name string
		open func(t *testing.T, s *server) (*pausingHandler, net.Conn)
		text string // two parts follow
	}{
		{"WebSocket", func(t *testing.T, s *server) (*pausingHandler, net.Conn) {
			c, p := dialSocket(t, s)
			return begin(c), p.conn
		}, string(rawFrame{first: fin | byte(ws.OpText), payload: "4" + part + part}.bytes()[:11])},
		{"polling", func(t *testing.T, s *server) (*pausingHandler, net.Conn) {
			h := begin(dialPolling(t, s, nil))
			return h, s.poll(t).hijack(t)
		}, fmt.Sprintf("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n4", 2*len(part)+1)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newPipeServer(t)
				h, conn := tt.open(t, s)
				go func() {
					_, _ = conn.Write([]byte(tt.text + part))
					_, _ = conn.Write([]byte(part))
				}()
				synctest.Wait()
				if got := h.messages(); len(got) != 0 {
					t.Fatal("the message was read although the Conn is paused")
				}
				for range 1000 { // each read pauses again
					h.conn.Resume()
					synctest.Wait()
				}
				h.want(t, "4"+part+part)
				h.conn.Close()
				synctest.Wait()
			})
		})
	}
}
