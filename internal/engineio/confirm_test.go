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
		h.add("a")
		s.Wake()
		p.want(t, "4a", "2")
		h.wantLog(t, "confirm ping")

		h.add("b", "c")
		s.Wake()
		p.want(t, "4b", "4c")
		p.wantNothing(t) // one ping in flight
		h.wantLog(t)

		p.send(t, "3")
		h.wantLog(t, "confirm 1") // not what followed the ping

		h.add("d")
		s.Wake()
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
		h.add("a")
		s.Wake()
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
		h.add("a")
		s.Wake()
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
		for range 10 { // the client confirms everything within the delay, for example by acknowledgements
			h.add("a")
			s.Wake()
			p.want(t, "4a")
			time.Sleep(confirmDelay * 3 / 4)
			h.Confirm(h.Mark())
		}
		time.Sleep(10 * time.Second)
		p.wantNothing(t)
		h.took()

		h.add("b")
		s.Wake()
		p.want(t, "4b")
		until(t, 2*confirmDelay, func() { p.wantNothing(t) })
		p.want(t, "2")
		h.add("c")
		s.Wake()
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
		h.add("a")
		s.Wake()
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
