package cluster

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/internal/siotest/outputtest"
)

const idA, idB, idC = "AAAAAAAA", "BBBBBBBB", "CCCCCCCC"

func wantState(t *testing.T, r *replica, id, want string) {
	t.Helper()
	synctest.Wait()
	if got := r.state(id); got != want {
		t.Fatalf("%s sees %s as %q, want %q", r.ID(), id, got, want)
	}
}

func wantAsk(t *testing.T, r *replica, id string, want error, atMost time.Duration) {
	t.Helper()
	took, err := r.ask(id)
	if !errors.Is(err, want) || took > atMost {
		t.Fatalf("asking %s: %v after %v, want %v within %v", id, err, took, want, atMost)
	}
}

// withPair calls fn with two replicas, in a bubble: a has dialled b, and they are connected.
func withPair(t *testing.T, fn func(t *testing.T, n *network, a, b *replica)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a := n.start(t, idA, "a:1", secretA, "b:1")
		b := n.start(t, idB, "b:1", secretA)
		time.Sleep(time.Second)
		fn(t, n, a, b)
		stop(a, b)
	})
}

func TestReplicasFindEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a := n.start(t, idA, "a:1", secretA, "a:1", "b:1") // its own address is in the list
		b := n.start(t, idB, "b:1", secretA, "a:1", "b:1")
		time.Sleep(time.Second)
		wantState(t, a, idB, "up")
		wantState(t, b, idA, "up")
		wantAsk(t, a, idB, nil, 0)
		wantAsk(t, b, idA, nil, 0)
		if !a.Settled() || !a.Knows(idB) || a.Knows(idC) {
			t.Error("a does not know where it is")
		}
		stop(a, b)
	})
}

// The replica that is dialled learns of one that only dials.
func TestDialledReplicaLearnsTheAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a := n.start(t, idA, "a:1", secretA)
		b := n.start(t, idB, "b:1", secretA, "a:1")
		time.Sleep(2 * time.Second)
		wantState(t, a, idB, "up")
		wantAsk(t, a, idB, nil, 0)
		stop(a, b)
	})
}

func TestUnknownReplicaIsGone(t *testing.T) {
	withPair(t, func(t *testing.T, n *network, a, b *replica) {
		wantAsk(t, a, idC, ErrGone, soonest)
		// A question finds a replica that was just started.
		c := n.start(t, idC, "c:1", secretA)
		a.book.set(nil, Entry{Addr: "b:1"}, Entry{Addr: "c:1"})
		wantAsk(t, a, idC, nil, time.Second)
		stop(c)
	})
}

func TestKilledReplicaIsGone(t *testing.T) {
	withPair(t, func(t *testing.T, n *network, a, b *replica) {
		wantState(t, a, idB, "up")
		_ = b.port.Close() // like kill -9: nothing listens, and the connections end
		b.port.cut()
		synctest.Wait()
		wantAsk(t, a, idB, ErrGone, deadAfter+longestPause/2)
		wantState(t, a, idB, "suspect")
		time.Sleep(time.Second)
		wantAsk(t, a, idB, ErrGone, 0) // no caller waits any more
		// Another replica takes its address.
		c := n.start(t, idC, "b:1", secretA)
		time.Sleep(2 * time.Second)
		wantState(t, a, idC, "up")
		wantAsk(t, a, idB, ErrGone, 0)
		stop(c)
	})
}

// A process that takes the id over, as announced, is found before callers give up. If it takes
// longer, they learn that they may ask again.
func TestReplicaThatHandsOver(t *testing.T) {
	withPair(t, func(t *testing.T, n *network, a, b *replica) {
		a.opts.Expected = func(id string) bool { return id == idB }
		_ = b.port.Close()
		b.port.cut()
		synctest.Wait()
		var next *replica
		time.AfterFunc(openTimeout+time.Second, func() { next = n.start(t, idB, "b:1", secretA) })
		wantAsk(t, a, idB, ErrUnreachable, openTimeout)
		wantAsk(t, a, idB, nil, openTimeout)
		wantState(t, a, idB, "up")
		next.Suspend()
		_ = next.port.Close() // none follows
		synctest.Wait()
		wantAsk(t, a, idB, ErrUnreachable, openTimeout)
		wantState(t, a, idB, "suspect")
		time.Sleep(expectedFor)
		wantAsk(t, a, idB, ErrGone, 0)
	})
}

// A replica whose next process speaks another version is not waited for, and is found again when it
// is updated back.
func TestOtherVersion(t *testing.T) {
	withPair(t, func(t *testing.T, n *network, a, b *replica) {
		b.Suspend()
		synctest.Wait()
		other := n.startVersion(t, idB, "b:1", "holdfast-peer/0")
		wantAsk(t, a, idB, ErrIncompatible, openTimeout)
		wantAsk(t, a, idB, ErrIncompatible, 0)
		if p := a.Peers()[0]; p.Problem != "it speaks another version of the peer protocol" {
			t.Errorf("the problem is %q", p.Problem)
		}
		other.Suspend()
		next := n.start(t, idB, "b:1", secretA)
		time.Sleep(longestPause)
		wantAsk(t, a, idB, nil, 0)
		stop(next)
	})
}

func TestSilentReplica(t *testing.T) {
	withPair(t, func(t *testing.T, _ *network, a, b *replica) {
		s, err := a.Open(context.Background(), idB, 'e', nil)
		if err != nil {
			t.Fatal(err)
		}
		b.port.silence(true)
		time.Sleep((silentTicks - 1) * tickInterval)
		wantState(t, a, idB, "up")
		time.Sleep(3 * tickInterval)
		if _, err := s.Read(make([]byte, 1)); err == nil {
			t.Error("the stream outlives its connection")
		}
		wantAsk(t, a, idB, ErrUnreachable, openTimeout)
		wantState(t, a, idB, "suspect")
		b.port.silence(false)
		time.Sleep(handshakeTimeout + 2*longestPause)
		wantState(t, a, idB, "up")
		if len(a.told.returned) != 2 || len(a.told.losses) != 1 { // either side may notice first
			t.Errorf("told %v and %v", a.told.returned, a.told.losses)
		}
	})
}

func TestReplicaThatStopsIsGone(t *testing.T) {
	withPair(t, func(t *testing.T, _ *network, a, b *replica) {
		b.Close()
		wantState(t, a, idB, "gone")
		wantAsk(t, a, idB, ErrGone, 0)
		if a.MayReturn(idB) {
			t.Error("it has said that it stops")
		}
	})
}

// A replica that loses one of its two addresses is not gone: callers wait for it as before.
func TestReplicaWithTwoAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		b := n.start(t, idB, "b:1", secretA)
		n.ports["b:2"] = b.port
		a := n.start(t, idA, "a:1", secretA, "b:1", "b:2")
		time.Sleep(time.Second)
		wantState(t, a, idB, "up")
		n.mu.Lock()
		delete(n.ports, "b:2")
		n.mu.Unlock()
		b.port.cut()
		a.book.set(nil, Entry{Addr: "b:1"})
		time.Sleep(time.Minute)
		synctest.Wait()
		if peers := a.Peers(); len(peers) != 1 || len(a.told.gone) != 0 {
			t.Fatalf("the peers are %+v, and %v are gone", peers, a.told.gone)
		}
		b.port.cut()
		synctest.Wait()
		wantAsk(t, a, idB, nil, time.Second)
		stop(b)
		wantAsk(t, a, idB, ErrGone, 0)
		stop(a)
	})
}

// Notes to a replica with several addresses come in order: over one connection, and when that has
// ended over one that the replica has accepted later.
func TestNotesToAReplicaWithTwoAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		b := n.start(t, idB, "b:1", secretA)
		n.ports["b:2"] = b.port
		var mu sync.Mutex
		var conns []uint64
		b.opts.Noted = func(from Sender, _ byte, _ []byte) {
			mu.Lock()
			defer mu.Unlock()
			conns = append(conns, from.Conn)
		}
		a := n.start(t, idA, "a:1", secretA, "b:1", "b:2")
		time.Sleep(time.Second)
		synctest.Wait()
		a.told.mu.Lock()
		a.told.returned = nil
		a.told.mu.Unlock()
		const notes = 20
		latest := uint64(0)
		for range 4 {
			for range notes {
				if !a.Note(idB, 'n', nil) {
					t.Error("not connected")
				}
			}
			synctest.Wait()
			mu.Lock()
			if slices.Sort(conns); len(conns) != notes || conns[0] != conns[notes-1] || conns[0] <= latest {
				t.Fatalf("notes came on the connections %d, after %d", conns, latest)
			}
			latest, conns = conns[0], nil
			mu.Unlock()
			a.mu.Lock()
			carrier := a.findLocked(idB).conn
			a.mu.Unlock()
			carrier.close(io.EOF)
			time.Sleep(time.Second)
			synctest.Wait()
			a.told.mu.Lock()
			if got := len(a.told.returned); got != 2 {
				t.Errorf("it returned %d times", got)
			}
			a.told.returned = nil
			a.told.mu.Unlock()
		}
		stop(a)
		stop(b)
	})
}

// A replica that is in no book and cannot be reached is forgotten.
func TestForgottenReplica(t *testing.T) {
	withPair(t, func(t *testing.T, _ *network, a, b *replica) {
		b.port.silence(true)
		a.book.set(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if peers := a.Peers(); len(peers) != 0 {
			t.Errorf("still there: %+v", peers)
		}
		wantAsk(t, a, idB, ErrGone, 0)
		if !a.MayReturn(idB) {
			t.Error("it may have been stopped")
		}
		b.port.silence(false)
		a.book.set(nil, Entry{ID: idB, Addr: "b:1"})
		time.Sleep(time.Minute)
		wantState(t, a, idB, "up")
		wantAsk(t, a, idB, nil, 0)
		if a.MayReturn(idB) {
			t.Error("it is here")
		}
	})
}

func TestBookThatFails(t *testing.T) {
	withPair(t, func(t *testing.T, _ *network, a, b *replica) {
		a.book.set(errors.New("down"))
		time.Sleep(time.Minute)
		wantState(t, a, idB, "up")
		if a.told.failed < 10 {
			t.Errorf("%d failures told", a.told.failed)
		}
	})
}

func TestSecretsThatDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a := n.start(t, idA, "a:1", secretA, "b:1")
		b := n.start(t, idB, "b:1", secretB, "a:1")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		for _, r := range []*replica{a, b} {
			if p := r.Peers()[0]; p.State == "up" || p.Problem != "it has another cluster.secret" {
				t.Errorf("%s sees %+v", r.ID(), p)
			}
		}
		// Rotation: b accepts both, a presents the old one; then a presents the new one.
		b.SetKeys(keys(t, secretB, secretA))
		a.SetKeys(keys(t, secretA, secretB))
		time.Sleep(2 * longestPause)
		wantState(t, a, idB, "up")
		wantState(t, b, idA, "up")
		stop(a, b)
	})
}

// The transitions are exactly those of the drawing.
func TestPeerStates(t *testing.T) {
	n := New(Options{ID: idA})
	allowed := map[peerState][]peerState{
		peerUnknown: {peerDialling}, peerDialling: {peerUp, peerGone}, peerUp: {peerSuspect, peerGone},
		peerSuspect: {peerUp, peerGone}, peerGone: {peerUnknown, peerUp},
	}
	for from, names := range allowed {
		for to := range peerStateNames {
			p := &peer{n: n, state: from}
			want := false
			for _, s := range names {
				want = want || s == peerState(to)
			}
			if got := p.moveLocked(peerState(to)); got != want {
				t.Errorf("%v -> %v: %v, want %v", from, peerState(to), got, want)
			}
		}
	}
	n.cancel()
}

// A request that is too large for a frame harms only its client.
func TestOversizedRequestFailsAlone(t *testing.T) {
	withPair(t, func(t *testing.T, _ *network, a, b *replica) {
		for size, want := range map[int]error{MaxAbout: nil, MaxAbout + 1: ErrUnreachable} {
			s, err := a.Open(context.Background(), idB, 'e', make([]byte, size))
			if !errors.Is(err, want) {
				t.Errorf("%d bytes: %v, want %v", size, err, want)
			}
			if s != nil {
				_ = s.Close()
			}
		}
		wantAsk(t, a, idB, nil, 0)
	})
}

// A replica that finds only itself logs that once, and again after it was connected to others.
func TestAloneIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		var log outputtest.Buffer
		a := &replica{told: new(told), book: new(fixedBook), port: n.listen("a:1")}
		n.ports["other-name:1"] = a.port
		a.book.entries = []Entry{{Addr: "a:1"}, {Addr: "other-name:1"}}
		a.Node = New(Options{
			ID: idA, Name: "test", Advertise: "a:1", Keys: keys(t, secretA), Book: a.book, Fixed: true, Serve: echo,
			Noted: func(Sender, byte, []byte) {}, Observer: a.told, Log: slog.New(slog.NewTextHandler(&log, nil)), Dial: n.dial,
		})
		a.Start(a.port)
		count := func() int {
			return strings.Count(log.String(), `level=WARN msg="cluster.peers leads to no replica but this one"`)
		}
		time.Sleep(time.Minute)
		if count() != 1 {
			t.Errorf("%d lines after a minute alone, want 1", count())
		}
		b := n.start(t, idB, "b:1", secretA)
		a.book.set(nil, Entry{Addr: "b:1"})
		time.Sleep(time.Minute)
		wantState(t, a, idB, "up")
		a.book.set(nil)
		stop(b)
		time.Sleep(time.Minute)
		if count() != 2 {
			t.Errorf("%d lines after the other one left, want 2", count())
		}
		stop(a)
	})
}
