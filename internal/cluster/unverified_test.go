package cluster

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// However many unverified peers hold connections to the peer port, from one address or many, silent
// or not: a new replica is connected immediately.
func TestUnverifiedConnectionsDelayNoReplica(t *testing.T) {
	for name, knock := range map[string]func(n *network, i int) net.Conn{
		"silent, from one address":    func(n *network, _ int) net.Conn { return n.knock("a:1", "192.0.2.1:1") },
		"silent, from many addresses": func(n *network, i int) net.Conn { return n.knock("a:1", fmt.Sprintf("192.0.2.%d:1", i%250)) },
		"with half of a handshake, from one address": func(n *network, _ int) net.Conn {
			c := n.knock("a:1", "192.0.2.1:1")
			go func() { _, _ = c.Write([]byte{22, 3, 1}) }() // returns when it is read, or closed
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork()
				a := n.start(t, idA, "a:1", secretA, "b:1")
				var held []net.Conn
				flood := func() {
					for i := range 1000 {
						held = append(held, knock(n, i))
					}
					synctest.Wait()
				}
				flood()
				began := time.Now()
				b := n.start(t, idB, "b:1", secretA, "a:1")
				synctest.Wait()
				wantState(t, b, idA, "up")
				if took := time.Since(began); took > 0 {
					t.Errorf("connected after %v", took)
				}
				flood()
				wantState(t, b, idA, "up")
				open := 0
				for _, c := range held {
					_ = c.SetReadDeadline(time.Now())
					if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
						open++
					}
				}
				if open > maxUnverified {
					t.Errorf("%d unverified connections are open, want at most %d", open, maxUnverified)
				}
				for _, c := range held {
					_ = c.Close()
				}
				stop(b, a)
			})
		})
	}
}

// A flood from one address does not close the connections of others.
func TestFloodFromOneAddress(t *testing.T) {
	var g unverifiedConns
	near, far := net.Pipe()
	defer near.Close()
	other := g.admit(addressed{far, peerAddr("192.0.2.2:1")})
	for range 1000 {
		c, _ := net.Pipe()
		g.admit(addressed{c, peerAddr("192.0.2.1:1")})
	}
	if len(g.list) != maxUnverified || g.list[0] != other {
		t.Errorf("%d are left, the first is %v", len(g.list), g.list[0].RemoteAddr())
	}
}

// The next process of a replica has another clock.
func TestClockOfTheNextProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		start := func(shows int64) *replica {
			n.clock = func() int64 { return shows }
			defer func() { n.clock = nil }()
			return n.start(t, idB, "b:1", secretA)
		}
		b := start(1000)
		a := n.start(t, idA, "a:1", secretA, "b:1")
		time.Sleep(time.Second)
		b.Suspend()
		b = start(2000)
		time.Sleep(time.Second)
		synctest.Wait()
		if got, ok := a.ClockOf(idB); !ok || got < 2000 {
			t.Errorf("it shows %d, %v", got, ok)
		}
		stop(a, b)
	})
}

// A replica knows the time of another one's clock, even if that one's messages are late.
func TestClockOfAnotherReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		const ahead = int64(1e15)
		began := time.Now()
		clock := func() int64 { return ahead + time.Since(began).Microseconds() }
		n.clock = clock
		b := n.start(t, idB, "b:1", secretA)
		n.clock = nil
		a := n.start(t, idA, "a:1", secretA, "b:1")
		if _, ok := a.ClockOf(idB); ok {
			t.Error("the clock is known before the replica")
		}
		for _, wait := range []time.Duration{0, 3 * time.Second, time.Minute} {
			time.Sleep(wait)
			synctest.Wait()
			if got, ok := a.ClockOf(idB); !ok || got != clock() {
				t.Errorf("after %v: %d, %v, want %d", wait, got, ok, clock())
			}
		}
		if _, ok := b.ClockOf(idA); ok {
			t.Error("a clock that tells nothing is known")
		}
		stop(a, b)
	})
}
