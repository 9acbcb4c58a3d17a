package engineio

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestConfirmPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		h.askForConfirmations()
		h.emit(s, "a")
		p.want(t, "4a", "2")
		h.wantLog(t, "confirm ping")

		h.emit(s, "b", "c")
		p.want(t, "4b", "4c")
		p.wantNothing(t) // one ping in flight
		h.wantLog(t)

		p.send(t, "3")
		h.wantLog(t, "confirm 1") // not what followed the ping

		h.emit(s, "d")
		p.want(t, "4d", "2")
		p.send(t, "3")
		h.wantLog(t, "confirm ping", "confirm 4")
	})
}

// A confirm ping restarts the client's timer like any other, and so postpones the next regular one.
func TestConfirmPingPutsOffTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		time.Sleep(20 * time.Second)
		h.askForConfirmations()
		h.emit(s, "a")
		p.want(t, "4a", "2")
		time.Sleep(time.Second)
		p.send(t, "3")
		until(t, 25*time.Second, func() { p.wantNothing(t) })
		p.want(t, "2")
	})
}

func TestConfirmPingIsATimeoutToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		time.Sleep(20 * time.Second)
		h.askForConfirmations()
		h.emit(s, "a")
		p.want(t, "4a", "2")
		h.wantLog(t, "confirm ping")
		until(t, 20*time.Second, func() { h.wantLog(t) })
		h.wantLog(t, "closed: ping timeout")
	})
}

func TestConfirmLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		h.askToConfirmLater()
		// The client confirms everything within the delay, for example by acknowledgements.
		for range 10 {
			h.emit(s, "a")
			p.want(t, "4a")
			time.Sleep(confirmDelay * 3 / 4)
			h.Confirm(h.Mark())
		}
		time.Sleep(10 * time.Second)
		p.wantNothing(t)
		h.took()

		h.emit(s, "b")
		p.want(t, "4b")
		until(t, 2*confirmDelay, func() { p.wantNothing(t) })
		p.want(t, "2")
		h.emit(s, "c")
		p.want(t, "4c")
		time.Sleep(4 * confirmDelay)
		p.wantNothing(t) // one ping in flight
		p.send(t, "3")
		h.wantLog(t, "confirm ping", "confirm 11")
		time.Sleep(confirmDelay)
		p.want(t, "2")
		p.send(t, "3")
		h.wantLog(t, "confirm ping", "confirm 12")
		until(t, 25*time.Second, func() { p.wantNothing(t) })
		p.want(t, "2")
	})
}

func TestConfirmLaterIsNoReasonToCloseSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		h.askToConfirmLater()
		h.emit(s, "a")
		p.want(t, "4a")
		time.Sleep(2 * confirmDelay)
		p.want(t, "2")
		until(t, 20*time.Second, func() { h.wantLog(t, "confirm ping") })
		h.wantLog(t, "closed: ping timeout")
	})
}

func TestConfirmLaterByPolling(t *testing.T) {
	for _, byPong := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			opts := testOptions
			opts.ConfirmByPong = byPong
			h := newFakeHandler()
			s := NewSocket("sid", opts, h)
			s.Start()
			defer s.Abort()
			h.askToConfirmLater()
			h.add("a")
			if a, _ := s.Poll(t.Context(), "1"); string(a.Body) != "4a" {
				t.Fatalf("poll answered %q, want 4a", a.Body)
			}
			start := time.Now()
			if a, _ := s.Poll(t.Context(), "2"); string(a.Body) != "2" {
				t.Fatalf("poll answered %q, want a ping", a.Body)
			}
			want := 25 * time.Second // the regular heartbeat
			if byPong {
				want = 2 * confirmDelay
			}
			if took := time.Since(start); took < want-confirmDelay || took > want+confirmDelay {
				t.Errorf("ConfirmByPong %v: ping after %v, want about %v", byPong, took, want)
			}
		})
	}
}

// Pings in the middle of a batch have numbers. The last one counts for the heartbeat and confirms.
func TestPingsInABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		h.pings = true
		answered := func(want uint32) {
			t.Helper()
			synctest.Wait()
			if got := s.PingsAnswered(); got != want {
				t.Errorf("answered %d pings, want %d", got, want)
			}
		}
		h.add("a", "b")
		s.Wake()
		p.want(t, "2", "ping:1", "4a", "2", "ping:2", "4b", "2")
		h.wantLog(t, "ping 1", "ping 2", "ping 3")
		answered(0)
		p.send(t, "3", "3")
		answered(2)
		h.wantLog(t)
		p.send(t, "3", "3") // one is not due
		answered(3)
		h.wantLog(t, "confirm 2")

		until(t, 25*time.Second, func() { p.wantNothing(t) })
		p.want(t, "2") // the regular one
		h.add("c")
		s.Wake()
		p.want(t, "2", "ping:3", "4c", "2")
		h.wantLog(t, "ping 5", "ping 6")
		p.send(t, "3", "3")
		answered(5)
		h.wantLog(t)
		until(t, 20*time.Second, func() { h.wantLog(t) })
		h.wantLog(t, "closed: ping timeout")
	})
}

func TestPingsInAnAnswer(t *testing.T) {
	for _, byPong := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			opts := testOptions
			opts.ConfirmByPong = byPong
			s, h := openPolling(t, opts)
			h.pings = true
			h.add("a")
			time.Sleep(25 * time.Second) // a regular ping waits for a poll
			startPoll(t, s, "a").want(t, "200 2\x1e4a\x1e2")
			h.wantLog(t, "ping 1", "ping 2")
			wantPost(t, s, "p", "3", okAnswer)
			if got := s.PingsAnswered(); got != 1 {
				t.Errorf("answered %d pings, want 1", got)
			}
			if got := s.Reached(); got != 0 {
				t.Errorf("reached %d before the next poll, want 0", got)
			}
			poll := startPoll(t, s, "b")
			synctest.Wait()
			if got := s.Reached(); got != 1 {
				t.Errorf("reached %d, want 1", got)
			}
			if !byPong {
				h.wantLog(t, "confirm 1")
			}
			wantPost(t, s, "q", "3", okAnswer)
			if byPong {
				h.wantLog(t, "confirm 1")
			}
			until(t, 25*time.Second+pollLinger, func() { poll.wantWaiting(t) })
			poll.want(t, "200 2")
		})
	}
}

// The upgrade shows that what was sent by polling has arrived.
func TestUpgradeReaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		h.pings = true
		h.add("a")
		startPoll(t, s, "a").want(t, "200 2\x1e4a\x1e2")
		p := startProbe(t, s)
		p.send(t, "2probe")
		p.want(t, "3probe")
		p.send(t, "5")
		synctest.Wait()
		if got := s.Reached(); got != 1 {
			t.Errorf("reached %d, want 1", got)
		}
	})
}
