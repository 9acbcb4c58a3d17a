package engineio

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// inBubble runs a test with a Conn whose server sends a ping every 25 s and expects pongs within 20
// s.
func inBubble(t *testing.T, websocket bool, test func(t *testing.T, c *Conn, l *connLog, s *server, p *wsPeer)) {
	synctest.Test(t, func(t *testing.T) {
		s := newPipeServer(t)
		var c *Conn
		var p *wsPeer
		if websocket {
			c, p = dialSocket(t, s)
		} else {
			c = dialPolling(t, s, nil)
		}
		l := newConnLog()
		c.Start(l)
		defer func() {
			c.Close()
			if p != nil {
				p.conn.Close()
			}
			synctest.Wait()
		}()
		test(t, c, l, s, p)
	})
}

func wantQuiet(t *testing.T, l *connLog) {
	t.Helper()
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.messages()) > 0 {
		t.Fatalf("the handler saw %q, want nothing", l.messages())
	}
}

func TestSilence(t *testing.T) {
	inBubble(t, true, func(t *testing.T, _ *Conn, l *connLog, _ *server, p *wsPeer) {
		for range 3 {
			until(t, 44*time.Second, func() { wantQuiet(t, l) })
			p.send(t, "2")
			p.want(t, "3")
		}
		p.send(t, "6") // nothing else counts
		until(t, 45*time.Second, func() { wantQuiet(t, l) })
		l.wantClosed(t, ErrSilent)
		p.want(t, "close:", "EOF")
	})
}

func TestSilencePolling(t *testing.T) {
	inBubble(t, false, func(t *testing.T, _ *Conn, l *connLog, s *server, _ *wsPeer) {
		time.Sleep(40 * time.Second)
		s.poll(t).answer(http.StatusOK, "2")
		s.wantPost(t, "3")
		waiting := s.poll(t)
		until(t, 45*time.Second, func() { wantQuiet(t, l) })
		l.wantClosed(t, ErrSilent)
		<-waiting.Context().Done()
	})
}

// A paused Conn does not see pings: it cannot tell whether the server is silent, and answers pings
// that must have arrived.
func TestPongsWhilePaused(t *testing.T) {
	inBubble(t, true, func(t *testing.T, c *Conn, l *connLog, _ *server, p *wsPeer) {
		time.Sleep(10 * time.Second)
		c.Pause()
		const interval, margin = 25 * time.Second, 5 * time.Second
		until(t, 15*time.Second+margin, func() { p.wantNothing(t) })
		p.want(t, "3")
		for range 3 {
			until(t, interval+margin, func() { p.wantNothing(t) })
			p.want(t, "3")
		}
		wantQuiet(t, l)

		// The server has sent as many pings meanwhile, and one more.
		written := make(chan struct{})
		go func() { // a write to a pipe blocks until it is read
			defer close(written)
			p.send(t, "2", "4x", "2", "2", "2", "4y")
		}()
		p.wantNothing(t)
		c.Resume()
		<-written
		l.want(t, "4x", "4y")
		p.wantNothing(t) // all were answered
		time.Sleep(20 * time.Second)
		p.wantNothing(t)
		p.send(t, "2")
		p.want(t, "3")

		until(t, 45*time.Second, func() { wantQuiet(t, l) })
		l.wantClosed(t, ErrSilent)
	})
}

func TestSilenceIsCountedFromResume(t *testing.T) {
	inBubble(t, true, func(t *testing.T, c *Conn, l *connLog, _ *server, p *wsPeer) {
		time.Sleep(40 * time.Second)
		c.Pause()
		c.Pause()
		time.Sleep(time.Hour)
		c.Resume()
		c.Resume()
		until(t, 45*time.Second, func() { wantQuiet(t, l) })
		l.wantClosed(t, ErrSilent)
		for range p.frames { // until the end
			continue
		}
	})
}

func TestPongsWhilePausedPolling(t *testing.T) {
	inBubble(t, false, func(t *testing.T, c *Conn, l *connLog, s *server, _ *wsPeer) {
		waiting := s.poll(t)
		c.Pause()
		waiting.answer(http.StatusOK, "4a") // the poll was sent before the pause
		l.want(t, "4a")
		for range 2 {
			time.Sleep(30 * time.Second)
			s.wantPost(t, "3")
		}
		time.Sleep(time.Second)
		c.Resume()
		s.poll(t).answer(http.StatusOK, "2\x1e4b\x1e2\x1e4c\x1e2")
		l.want(t, "4b", "4c")
		s.wantPost(t, "3") // the answer to the third ping
	})
}

// A ping that arrives while paused, in the answer to an earlier poll, is answered then. It gets no
// early pong.
func TestPingInThePollBeforeThePause(t *testing.T) {
	inBubble(t, false, func(t *testing.T, c *Conn, _ *connLog, s *server, _ *wsPeer) {
		waiting := s.poll(t)
		time.Sleep(24 * time.Second)
		c.Pause()
		time.Sleep(time.Second)
		waiting.answer(http.StatusOK, "2")
		s.wantPost(t, "3")
		until(t, 30*time.Second, func() {
			synctest.Wait()
			select {
			case x := <-s.posts:
				t.Errorf("POST %q too early", x.body)
			default:
			}
		})
		s.wantPost(t, "3")
	})
}

func TestNoPongsAfterTheEnd(t *testing.T) {
	inBubble(t, true, func(t *testing.T, c *Conn, l *connLog, _ *server, p *wsPeer) {
		c.Pause()
		time.Sleep(time.Second)
		c.Close()
		l.wantClosed(t, ErrClosed)
		p.want(t, "close:", "EOF")
		time.Sleep(time.Hour)
	})
}
