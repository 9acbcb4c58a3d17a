package engineio

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestPollLoop(t *testing.T) {
	s := newServer(t, false)
	c := dialPolling(t, s, nil)
	l := begin(t, c)
	seen := make(map[string]bool)
	for range 3 {
		x := s.poll(t)
		if id := x.URL.Query().Get("t"); id == "" || seen[id] {
			t.Errorf("polled with t=%q again", id)
		} else {
			seen[id] = true
		}
		x.answer(http.StatusOK, "4a\x1ebAQI=\x1e6\x1e4b")
		l.want(t, "4a", "b0102", "4b")
	}
}

func TestPollingPong(t *testing.T) {
	s := newServer(t, false)
	begin(t, dialPolling(t, s, nil))
	s.poll(t).answer(http.StatusOK, "2")
	s.wantPost(t, "3")
}

// One POST is sent at a time, with as much as the server accepts.
func TestPosts(t *testing.T) {
	s := newServer(t, false)
	c := dialPolling(t, s, nil) // maxPayload is 100
	l := begin(t, c)
	c.Send([]byte("first"), nil)
	if queued := c.Flush(); queued != len("4first") {
		t.Errorf("%d bytes wait, want %d", queued, len("4first"))
	}
	first := s.post(t)
	if first.body != "4first" || first.Header.Get("Content-Type") != "text/plain;charset=UTF-8" || first.ContentLength != 6 {
		t.Errorf("POST %q, header %v", first.body, first.Header)
	}

	c.Send([]byte(`51-["x",{"_placeholder":true,"num":0}]`), [][]byte{{1, 2}})
	c.SendBinary([]byte{3})
	c.Send([]byte(strings.Repeat("y", 60)), nil)
	c.Send([]byte(strings.Repeat("z", 38)), nil)
	c.Send([]byte(strings.Repeat("w", 300)), nil)
	c.Send([]byte("last"), nil)
	c.Flush()
	select {
	case x := <-s.posts:
		t.Fatalf("POST %q while another was under way", x.body)
	case <-time.After(20 * time.Millisecond):
	}
	first.answer(http.StatusOK, "ok")
	s.wantPost(t, `451-["x",{"_placeholder":true,"num":0}]`+"\x1ebAQI=\x1ebAw==")
	s.wantPost(t, "4"+strings.Repeat("y", 60)) // one more would make it 101 bytes
	s.wantPost(t, "4"+strings.Repeat("z", 38))
	s.wantPost(t, "4"+strings.Repeat("w", 300)) // the server decides about it
	s.wantPost(t, "4last")
	l.wantDrained(t)
	if queued := c.Flush(); queued != 0 {
		t.Errorf("%d bytes wait when all has gone", queued)
	}
}

// The count of queued bytes returns to 0 after many packets that share bodies, because clients wait
// for that.
func TestQueuedOfPosts(t *testing.T) {
	s := newServer(t, false)
	c := dialPolling(t, s, nil)
	l := begin(t, c)
	for range 3 {
		total := 0
		for range 10 {
			c.Send([]byte("abcdefgh"), nil)
			total += 9
		}
		if queued := c.Flush(); queued < total || queued > total+10 {
			t.Errorf("%d bytes wait, want about %d", queued, total)
		}
		for got := 0; got < 10; {
			x := s.post(t)
			got += 1 + strings.Count(x.body, "\x1e")
			if len(x.body) > 100 {
				t.Errorf("POST of %d bytes", len(x.body))
			}
			x.answer(http.StatusOK, "ok")
		}
		l.wantDrained(t)
		if queued := c.Flush(); queued != 0 {
			t.Errorf("%d bytes wait when all has gone", queued)
		}
	}
}

// python-engineio refuses POSTs with more packets.
func TestPostsOfManyPackets(t *testing.T) {
	s := newServer(t, false)
	// The Dialer's MaxPayload applies.
	c := dialPolling(t, s, func(h *Handshake) { h.MaxPayload = 0 })
	begin(t, c)
	for range 40 {
		c.Send(nil, nil)
	}
	c.Flush()
	for _, n := range []int{16, 16, 8} {
		s.wantPost(t, strings.Repeat("4\x1e", n-1)+"4")
	}
}

func TestSendBeforeStartPolling(t *testing.T) {
	s := newServer(t, false)
	c := dialPolling(t, s, nil)
	c.Send([]byte("a"), nil)
	c.Flush()
	begin(t, c)
	s.wantPost(t, "4a")
}

func TestPollingEnds(t *testing.T) {
	anything := errors.New("any error")
	tests := []struct {
		name string
		end  func(t *testing.T, s *server, c *Conn)
		err  error
	}{
		{"CLOSE", func(t *testing.T, s *server, _ *Conn) { s.poll(t).answer(http.StatusOK, "4last\x1e1\x1e4late") }, ErrServerClosed},
		{"NOOP and CLOSE", func(t *testing.T, s *server, _ *Conn) { s.poll(t).answer(http.StatusOK, "4last\x1e6\x1e1") }, ErrServerClosed},
		{"poll refused", func(t *testing.T, s *server, _ *Conn) {
			s.poll(t).answer(http.StatusOK, "4last")
			s.poll(t).answer(http.StatusBadRequest, `{"code":1,"message":"Session ID unknown"}`)
		}, anything},
		{"poll dropped", func(t *testing.T, s *server, _ *Conn) {
			s.poll(t).answer(http.StatusOK, "4last")
			s.poll(t).drop(t) // the poll is not repeated: its answer may be what was lost
		}, anything},
		{"poll's answer cut off", func(t *testing.T, s *server, _ *Conn) {
			s.poll(t).answer(http.StatusOK, "4last")
			conn := s.poll(t).hijack(t)
			_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n4late"))
			conn.Close()
		}, anything},
		{"poll malformed", func(t *testing.T, s *server, _ *Conn) { s.poll(t).answer(http.StatusOK, "4last\x1ex") }, ErrMalformed},
		{"POST refused", func(t *testing.T, s *server, c *Conn) {
			s.poll(t).answer(http.StatusOK, "4last")
			s.poll(t) // shows that the previous answer was handled
			c.Send([]byte("x"), nil)
			c.Flush()
			s.post(t).answer(http.StatusRequestEntityTooLarge, "")
		}, anything},
		{"POST dropped", func(t *testing.T, s *server, c *Conn) {
			s.poll(t).answer(http.StatusOK, "4last")
			s.poll(t) // shows that the previous answer was handled
			c.Send([]byte("x"), nil)
			c.Flush()
			s.post(t).drop(t)
		}, anything},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, false)
			c := dialPolling(t, s, nil)
			l := newConnLog()
			c.Start(l)
			tt.end(t, s, c)
			l.awaitThat(t, "Closed", func() bool { return l.err != nil })
			if !errors.Is(l.err, tt.err) && !errors.Is(tt.err, anything) {
				t.Errorf("Closed(%v), want %v", l.err, tt.err)
			}
			l.want(t, "4last", "closed")
			c.Close()
		})
	}
}

// Close waits for the POST in progress, then posts what is queued, then CLOSE.
func TestClosePolling(t *testing.T) {
	s := newServer(t, false)
	c := dialPolling(t, s, nil)
	l := newConnLog()
	c.Start(l)
	waiting := s.poll(t)
	c.Send([]byte("a"), nil)
	c.Flush()
	first := s.post(t)
	c.Send([]byte("b"), nil)
	c.Send([]byte(strings.Repeat("c", 99)), nil)
	c.Close()
	c.Close()
	c.Send([]byte("late"), nil)
	c.Flush()
	l.wantClosed(t, ErrClosed)
	<-waiting.Context().Done() // the poll is canceled
	first.answer(http.StatusOK, "ok")
	s.wantPost(t, "4b")
	s.wantPost(t, "4"+strings.Repeat("c", 99))
	s.wantPost(t, "1")
}

func TestClosePollingIdle(t *testing.T) {
	s := newServer(t, false)
	c := dialPolling(t, s, nil)
	l := newConnLog()
	c.Start(l)
	s.poll(t)
	c.Close()
	l.wantClosed(t, ErrClosed)
	s.wantPost(t, "1")
}

// Close does not wait forever for a server that does not take CLOSE, or what precedes it.
func TestClosePollingIsBounded(t *testing.T) {
	for _, posting := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newPipeServer(t)
			c := dialPolling(t, s, nil)
			s.dialer.Timeout = 50 * time.Millisecond // of what follows
			l := newConnLog()
			c.Start(l)
			var x *exchange
			if posting {
				c.Send([]byte("a"), nil)
				c.Flush()
				x = s.post(t)
			}
			start := time.Now()
			c.Close()
			l.wantClosed(t, ErrClosed)
			if !posting {
				x = s.post(t)
			}
			<-x.Context().Done()
			if took := time.Since(start); took != s.dialer.Timeout {
				t.Errorf("the server was waited for %v, want %v", took, s.dialer.Timeout)
			}
		})
	}
}

func TestPausePolling(t *testing.T) {
	s := newServer(t, false)
	c := dialPolling(t, s, nil)
	l := begin(t, c)
	x := s.poll(t)
	c.Pause()
	x.answer(http.StatusOK, "4a") // the poll was sent before the pause
	l.want(t, "4a")
	select {
	case <-s.polls:
		t.Fatal("polled while paused")
	case <-time.After(20 * time.Millisecond):
	}
	c.Send([]byte("b"), nil)
	c.Flush()
	s.wantPost(t, "4b")
	c.Resume()
	s.poll(t).answer(http.StatusOK, "4c")
	l.want(t, "4c")
	x = s.poll(t)
	c.Pause()
	x.answer(http.StatusOK, "4d")
	l.want(t, "4d")
	c.Close() // while paused
	s.wantPost(t, "1")
}
