package engineio

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/steady"
)

// until sleeps until just before d is over, checks that nothing happened, and sleeps the rest.
func until(t *testing.T, d time.Duration, nothing func()) {
	t.Helper()
	time.Sleep(d - time.Nanosecond)
	nothing()
	time.Sleep(time.Nanosecond)
	synctest.Wait()
}

func TestHeartbeatWebSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h, p := openPipe(t, testOptions)
		for range 3 {
			until(t, 25*time.Second, func() { p.wantNothing(t) })
			p.want(t, "2")
			time.Sleep(7 * time.Second)
			p.send(t, "3")
			h.wantLog(t, "confirm 0")
		}
	})
}

func TestPingTimeoutWebSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h, p := openPipe(t, testOptions)
		time.Sleep(25 * time.Second)
		p.want(t, "2")
		until(t, 20*time.Second, func() { h.wantLog(t) })
		h.wantLog(t, "closed: ping timeout")
		p.want(t, "close:", "EOF")
	})
}

func TestProgressPostponesPingTimeout(t *testing.T) {
	tests := []struct {
		name     string
		progress func(t *testing.T, s *Socket, h *fakeHandler, p *wsPeer)
		log      string
	}{
		{"a message", func(t *testing.T, _ *Socket, _ *fakeHandler, p *wsPeer) { p.send(t, "4x") }, "message 4x"},
		{"a WebSocket ping", func(t *testing.T, _ *Socket, _ *fakeHandler, p *wsPeer) {
			p.sendFrame(t, 9, nil)
			p.want(t, "pong:")
		}, ""},
		{"part of a frame", func(t *testing.T, _ *Socket, _ *fakeHandler, p *wsPeer) { p.writeBytes(t, []byte{0x81}) }, ""},
		{"bytes taken", func(t *testing.T, s *Socket, h *fakeHandler, p *wsPeer) {
			h.emit(s, "x")
			p.want(t, "4x")
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, h, p := openPipe(t, testOptions)
				time.Sleep(25 * time.Second)
				p.want(t, "2")
				time.Sleep(19 * time.Second)
				tt.progress(t, s, h, p)
				until(t, 20*time.Second, func() {
					if tt.log == "" {
						h.wantLog(t)
					} else {
						h.wantLog(t, tt.log)
					}
				})
				h.wantLog(t, "closed: ping timeout")
			})
		})
	}
}

func TestPauseSuspendsPingTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		time.Sleep(25 * time.Second)
		p.want(t, "2")
		time.Sleep(19 * time.Second)
		s.Pause()
		for range 100 { // the client's own timer expects a ping per interval
			time.Sleep(25 * time.Second)
			p.want(t, "2")
			p.wantNothing(t)
		}
		h.wantLog(t)
		s.Resume()
		until(t, 20*time.Second, func() { h.wantLog(t) })
		h.wantLog(t, "closed: ping timeout")
		p.want(t, "close:", "EOF")
	})
}

// Pongs of pings sent while paused confirm nothing that was sent after those pings.
func TestPongsOfExtraPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		time.Sleep(25 * time.Second)
		p.want(t, "2")
		s.Pause()
		written := make(chan struct{})
		go func() { // a write to a pipe blocks until it is read
			defer close(written)
			p.send(t, "3", "3", "3")
		}()
		time.Sleep(51 * time.Second)
		p.want(t, "2", "2")
		s.Resume()
		<-written
		h.wantLog(t, "confirm 0")
		h.add("x")
		h.askForConfirmations()
		s.Wake()
		p.want(t, "4x", "2")
		p.send(t, "3")
		h.wantLog(t, "confirm ping", "confirm 1")

		// The pongs come after the next ping and still do not count.
		s.Pause()
		h.emit(s, "y")
		p.want(t, "4y", "2")
		time.Sleep(26 * time.Second)
		p.want(t, "2")
		s.Resume()
		p.send(t, "3")
		h.wantLog(t, "confirm ping", "confirm 2")
		h.emit(s, "z")
		p.want(t, "4z", "2")
		h.wantLog(t, "confirm ping")
		p.send(t, "3") // the pong of the extra ping
		h.wantLog(t)
		p.send(t, "3")
		h.wantLog(t, "confirm 3")
	})
}

func TestExtraPingsPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		c := startPoll(t, s, "a1")
		time.Sleep(25*time.Second + pollLinger)
		c.want(t, "200 2")
		s.Pause()
		posted := make(chan string, 1) // so that the POST always ends
		go func() { posted <- post(s, "p1", "3") }()
		for _, id := range []string{"a2", "a3"} {
			c = startPoll(t, s, id)
			time.Sleep(25*time.Second + pollLinger)
			c.want(t, "200 2")
		}
		s.Resume()
		if got := <-posted; got != okAnswer {
			t.Errorf("the POST got %q", got)
		}
		wantPost(t, s, "p2", "3\x1e3", okAnswer)
		if log := h.took(); slices.Contains(log, "closed: ping timeout") {
			t.Errorf("the handler saw %q", log)
		}
	})
}

// An extra ping that no poll has taken is dropped when the pong arrives. Its own pong, if delayed,
// would be mistaken for the next ping's, and confirm what came with that.
func TestExtraPingThatThePongOvertakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		c := startPoll(t, s, "a1")
		time.Sleep(25*time.Second + pollLinger)
		c.want(t, "200 2")
		for _, id := range []string{"p1", "p2"} { // it posts and does not poll
			time.Sleep(15 * time.Second)
			wantPost(t, s, id, "4up", okAnswer)
		}
		wantPost(t, s, "p3", "3", okAnswer)
		c = startPoll(t, s, "a2")
		time.Sleep(time.Second)
		h.emit(s, "x")
		c.want(t, "200 4x")
	})
}

func TestPongWhilePausedCountsAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		time.Sleep(25 * time.Second)
		p.want(t, "2")
		s.Pause()
		s.Pause()
		written := make(chan struct{})
		go func() { // a write to a pipe blocks until it is read
			defer close(written)
			p.send(t, "3", "4x")
		}()
		time.Sleep(time.Minute)
		p.want(t, "2", "2")
		h.wantLog(t)
		s.Resume()
		s.Resume()
		<-written
		h.wantLog(t, "confirm 0", "message 4x")
		until(t, 25*time.Second, func() { p.wantNothing(t) })
		p.want(t, "2")
	})
}

// With a timeout longer than the interval, there is no second ping before the first is answered.
func TestPingTimeoutOverInterval(t *testing.T) {
	opts := testOptions
	opts.PingInterval, opts.PingTimeout = 10*time.Second, 30*time.Second
	synctest.Test(t, func(t *testing.T) {
		_, h, p := openPipe(t, opts)
		time.Sleep(10 * time.Second)
		p.want(t, "2")
		time.Sleep(25 * time.Second)
		p.wantNothing(t)
		p.send(t, "3")
		h.wantLog(t, "confirm 0")
		until(t, 10*time.Second, func() { p.wantNothing(t) })
		p.want(t, "2")
		until(t, 30*time.Second, func() { h.wantLog(t) })
		h.wantLog(t, "closed: ping timeout")
	})
}

func TestUnaskedPong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		h.emit(s, "a")
		p.want(t, "4a")
		p.send(t, "3", "3")
		h.wantLog(t)
		time.Sleep(25 * time.Second)
		p.want(t, "2")
	})
}

// A slow client is alive as long as it takes data that precedes the ping.
func TestPingTimeoutOfASlowReader(t *testing.T) {
	opts := testOptions
	opts.PingInterval, opts.PingTimeout = 50*time.Millisecond, time.Second
	for _, dead := range []bool{false, true} {
		name := "slow"
		if dead {
			name = "dead"
		}
		t.Run(name, func(t *testing.T) {
			// A client that stalls for as long as the timeout is a dead one.
			steady.Try(t, opts.PingTimeout/5, func() error { return readSlowly(t, opts, dead) })
		})
	}
}

// readSlowly opens a Socket whose client reads 16 MiB slowly, or nothing at all.
func readSlowly(t *testing.T, opts Options, dead bool) error {
	t.Helper()
	h := newFakeHandler()
	s := NewSocket("sid", opts, h)
	ours, theirs := loopback(t)
	// What the client's kernel has taken counts as arrived.
	if err := theirs.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	p := newLazyPeer(theirs)
	defer close(p.gate)
	defer theirs.Close() // must be first
	s.StartWebSocket(ours, nil, nil, testHandshake)
	defer s.Abort()
	message := strings.Repeat("x", 64<<10)
	for range 256 {
		h.add(message)
	}
	s.Wake()
	if dead {
		h.await(t, "closed: ping timeout")
		return nil
	}
	// 16 MiB at 32 KiB per 8 ms take 4 s: four times the timeout.
	for got := 0; got < 256; {
		select {
		case p.gate <- struct{}{}:
			time.Sleep(8 * time.Millisecond) // makes the client slow; not a wait
		case f := <-p.frames:
			switch {
			case len(f) == 1+len(message):
				got++
			case f == "2":
				_, _ = p.conn.Write(wire(fromClient(ws.OpText, "3"))) // what fails is seen by what it reads
			case strings.HasPrefix(f, "close") || f == "EOF" || f == "error":
				return fmt.Errorf("%.20q after %d messages", f, got)
			}
		}
	}
	return nil
}

func TestHeartbeatPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		p := startPoll(t, s, "a")
		until(t, 25*time.Second+pollLinger, func() { p.wantWaiting(t) })
		p.want(t, "200 2")
		p = startPoll(t, s, "b")
		h.wantLog(t, "confirm 0")
		time.Sleep(5 * time.Second)
		wantPost(t, s, "c", "3", okAnswer)
		h.wantLog(t) // the poll has confirmed it already
		until(t, 25*time.Second+pollLinger, func() { p.wantWaiting(t) })
		p.want(t, "200 2")
	})
}

func TestPingTimeoutPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		p := startPoll(t, s, "a")
		time.Sleep(25*time.Second + pollLinger)
		p.want(t, "200 2")
		p = startPoll(t, s, "b") // a sign of life
		h.wantLog(t, "confirm 0")
		until(t, 20*time.Second, func() { p.wantWaiting(t) })
		p.want(t, "200 1")
		h.wantLog(t, "closed: ping timeout")
		startPoll(t, s, "c").want(t, unknownSID)
	})
}

// A ping that no poll took counts as in flight, and goes with the next poll.
func TestPingWaitsForAPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := openPolling(t, testOptions)
		time.Sleep(40 * time.Second)
		wantPost(t, s, "x", "3", okAnswer) // the pong of a ping that was not sent yet
		p := startPoll(t, s, "a")
		p.want(t, "200 2")
		wantPost(t, s, "b", "3", okAnswer)
		p = startPoll(t, s, "c")
		until(t, 25*time.Second+pollLinger, func() { p.wantWaiting(t) })
		p.want(t, "200 2")
	})
}

func TestPingTimeoutWithoutPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		until(t, 45*time.Second, func() { h.wantLog(t) })
		h.wantLog(t, "closed: ping timeout")
		startPoll(t, s, "a").want(t, unknownSID)
		wantPost(t, s, "b", "4x", unknownSID)
	})
}

// The timer may be late. A poll that comes after the deadline still ends the session.
func TestPollAfterTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		s.ping.timer.Stop() // as if it were late
		time.Sleep(45 * time.Second)
		startPoll(t, s, "a").want(t, unknownSID)
		h.wantLog(t, "closed: ping timeout")
	})
}

func TestPollBeforeStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHandler()
		s := NewSocket("sid", testOptions, h)
		defer s.Abort()
		p := startWaiting(t, s, "a")
		s.Start()
		h.emit(s, "x")
		p.want(t, "200 4x")
	})
}

func TestNoTimerOutlivesTheSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		s.Abort()
		s.Start()
		h.wantLog(t, "closed: forced close")
		if s.ping.timer.Stop() {
			t.Error("the heartbeat's timer still runs")
		}
		time.Sleep(time.Hour)
		h.wantLog(t)
	})
}

// A client that is sending much answers a ping after all of it. Its own timer expects pings
// meanwhile.
func TestExtraPingsWhileTheClientSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h, p := openPipe(t, testOptions)
		time.Sleep(25 * time.Second)
		p.want(t, "2")
		for range 10 {
			for range 5 {
				time.Sleep(5 * time.Second)
				p.send(t, "4x")
			}
			time.Sleep(timerSlack)
			p.want(t, "2")
			p.wantNothing(t)
		}
		for range 11 {
			p.send(t, "3")
		}
		synctest.Wait()
		if log := h.took(); log[len(log)-1] != "confirm 0" || slices.Contains(log[:len(log)-1], "confirm 0") {
			t.Errorf("the handler saw %q", log)
		}
		until(t, 20*time.Second, func() { p.wantNothing(t) })
	})
}
