package proxy

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/internal/peerwire"
	"github.com/holdfast/holdfast/internal/reason"
)

// An owner that has announced a handover is waited for, until it serves again or its time is over.
func TestOwnerThatHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(handovers)
		want := func(owner string, why, want reason.Reason) {
			t.Helper()
			if got := r.refusal(owner, why); got != want {
				t.Errorf("%s, %s: got %s, want %s", owner, why, got, want)
			}
		}
		want("a", reason.OwnerUnreachable, reason.OwnerUnreachable)
		r.noted("a", []byte{0x90, 0x4e}) // 10 s
		r.noted("b", nil)
		want("a", reason.OwnerUnreachable, reason.Handover)
		want("a", reason.OwnerGone, reason.OwnerGone)
		want("b", reason.OwnerUnreachable, reason.OwnerUnreachable)
		time.Sleep(10*time.Second - time.Millisecond)
		want("a", reason.OwnerUnreachable, reason.Handover)
		time.Sleep(time.Millisecond)
		want("a", reason.OwnerUnreachable, reason.OwnerUnreachable)

		r.noted("a", []byte{0x90, 0x4e})
		r.noted("a", []byte{0})
		want("a", reason.OwnerUnreachable, reason.OwnerUnreachable)
		r.noted("a", []byte{0x90, 0x4e})
		r.served("a")
		want("a", reason.OwnerUnreachable, reason.OwnerUnreachable)

		r.noted("a", []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
		time.Sleep(peerwire.MaxHandover)
		want("a", reason.OwnerUnreachable, reason.OwnerUnreachable)
	})
}

// A process that takes over after the wall clock was set back continues to count where the one
// before was. Otherwise clients that other replicas pass on would seem older than those that had
// the sessions.
func TestClockContinuesAfterAHandover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &replicas{epoch: time.Now()}
		h := &handshaker{deps: &deps{replicas: r}}
		before := uint64(time.Now().Add(time.Hour).UnixMicro())
		h.continueAfter(before)
		time.Sleep(time.Millisecond)
		for name, n := range map[string]uint64{"of a client": h.next(), "of a moved client": r.movedSeq(&peerwire.MoveRequest{}), "of a pong": uint64(r.clock())} {
			if n <= before || n > before+10_000 {
				t.Errorf("the number %s is %d, after %d", name, n, before)
			}
		}
		h.continueAfter(7) // the clock is ahead of what the process before had
		if n := h.next(); n <= before {
			t.Errorf("the clock went back: %d", n)
		}
	})
}
