package proxy

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/instant"
	"github.com/holdfast/holdfast/internal/peerwire"
	"github.com/holdfast/holdfast/internal/reason"
)

// A note that was told over a connection that ends soon afterwards is told again: the connection may
// have been dead. Later nothing is kept of it.
func TestNoteIsToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &replicas{node: cluster.New(cluster.Options{ID: "replica1"})}
		defer r.node.Close()
		l := newLostOwners(r)
		connected, told := false, 0
		l.tell = func(*abandonment) bool {
			if connected {
				told++
			}
			return connected
		}
		want := func(n int) {
			t.Helper()
			if told != n {
				t.Errorf("told %d times, want %d", told, n)
			}
		}
		l.note(&abandonment{owner: "replica2", ask: &peerwire.MoveRequest{}})
		connected = true
		l.returned("replica2")
		want(1)
		time.Sleep(silence)
		l.returned("replica2")
		want(2)
		time.Sleep(toldTime)
		synctest.Wait()
		l.returned("replica2")
		want(2)
		if len(l.notes)+len(l.told) > 0 {
			t.Errorf("kept: %v, %v", l.notes, l.told)
		}
	})
}

// An owner that is asked again has perhaps granted the first request, by the time in it. The second
// one must not seem earlier, although the edge's idea of the owner's clock is ahead.
func TestAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &replicas{epoch: time.Now()}
		time.Sleep(time.Minute)
		opened := instant.Now()
		const late, ahead = 3 * time.Second, 10 * time.Millisecond
		time.Sleep(100 * time.Millisecond)
		ask := peerwire.MoveRequest{Age: 100, At: r.clock() - 100_000 + ahead.Microseconds()}
		time.Sleep(late)
		granted := r.movedSeq(&ask)
		r.date(&ask, opened, "replica2")
		if again := r.movedSeq(&ask); again <= granted {
			t.Errorf("asked again it is %d, after %d", again, granted)
		}
		if again, now := r.movedSeq(&peerwire.MoveRequest{Age: 1, At: r.clock() + 1_000_000, Again: true}), uint64(r.clock()); again > now {
			t.Errorf("a number from the future: %d at %d", again, now)
		}
	})
}

// A client that asks for sessions of other replicas in ever more namespaces costs one timer at a
// time and bounded memory, and nothing when it is gone.
func TestClientThatAsksInManyNamespaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLostOwners(&replicas{})
		c := new(client)
		c.deps = &deps{reporter: &reporter{}}
		c.sock = engineio.NewSocket("sid", engineio.Options{}, c)
		for i := range 10 * maxPending {
			l.abandon(c, "replica2", &peerwire.MoveRequest{Namespace: fmt.Sprint("/", i)}, reason.OwnerConflict)
			if i%100 == 0 {
				time.Sleep(2 * goneTime)
			}
			synctest.Wait()
		}
		if n := len(l.pending[c]); n != maxPending || len(l.looking) != 1 {
			t.Errorf("%d notes are kept, and %d clients looked at", n, len(l.looking))
		}
		l.forget(c)
		time.Sleep(2 * goneTime)
		synctest.Wait()
		if len(l.pending)+len(l.looking) > 0 {
			t.Errorf("kept: %v, %v", l.pending, l.looking)
		}
	})
}

// A client that asks again and again costs one timer, and is remembered from the last time on.
func TestClaimThatGotNoSessionIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const lifetime = time.Minute
		l := newLostOwners(&replicas{})
		l.lifetime = func() time.Duration { return lifetime }
		claiming := func(seq uint64) *client {
			c := new(client)
			c.seq = seq
			return c
		}
		pid := "hf" + strings.Repeat("a", 27)
		ask := &peerwire.MoveRequest{Connect: []byte(`0{"pid":"` + pid + `","offset":"x"}`)}
		l.miss(claiming(1), ask)
		kept := func() missedClaim {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.missed[pid]
		}
		first := kept().expiry
		if first == nil {
			t.Fatal("nothing is kept")
		}
		for n := range 3 {
			time.Sleep(lifetime - time.Second)
			l.miss(claiming(uint64(n+2)), ask)
		}
		l.miss(claiming(2), ask) // it is late
		if k := kept(); k.seq != 4 || k.expiry != first {
			t.Errorf("kept: %+v, and the first timer is %p", k, first)
		}
		time.Sleep(lifetime - time.Nanosecond)
		synctest.Wait()
		if kept().seq != 4 {
			t.Error("forgotten too early")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if k := kept(); k.expiry != nil {
			t.Errorf("kept: %+v", k)
		}
	})
}
