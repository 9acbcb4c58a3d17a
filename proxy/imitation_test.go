package proxy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/siotest/imitation"
)

const imitatedKey = "hf_key=0123456789abcdef0123"

// imitated is a client of a library that cannot run here, and its path.
type imitated struct {
	*rig
	lib       *imitation.Library
	transport imitation.Transport
}

// eachImitated runs a test for each library and transport.
func eachImitated(t *testing.T, change func(*config.Config), test func(r *imitated)) {
	for _, lib := range imitation.Libraries() {
		for _, transport := range lib.Transports {
			t.Run(lib.Name+"/"+string(transport), func(t *testing.T) {
				t.Parallel() // most of them wait for a client that does not answer
				test(&imitated{newRig(t, change), lib, transport})
			})
		}
	}
}

func (r *imitated) dial(query string) *imitation.Client {
	r.t.Helper()
	c, err := imitation.Dial(r.lib, r.transport, strings.TrimPrefix(r.url, "http://"), query)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(c.Cut)
	r.await("the reply to "+r.lib.Name, func() bool { return c.ID() != "" })
	if r.transport == imitation.Upgrade && !c.Upgraded() {
		r.t.Fatal("not upgraded")
	}
	return c
}

func (r *imitated) awaitEvents(c *imitation.Client, n int) {
	r.t.Helper()
	r.await("its events", func() bool { return len(c.Events()) >= n })
}

func (r *imitated) awaitConfirmed() {
	r.t.Helper()
	r.await("its confirmation", func() bool { return r.proxy.budget.Packets() == 0 })
}

func TestImitatedClientsRecoverByKey(t *testing.T) {
	eachImitated(t, withKey, func(r *imitated) {
		c := r.dial(imitatedKey)
		id, s := c.ID(), r.socket(0)
		for i := range 2 {
			s.Emit("n", i)
			r.awaitEvents(c, 1)
			r.awaitConfirmed()
			c.Cut()
			s.Emit("n", "missed")
			c = r.dial(imitatedKey)
			r.awaitEvents(c, 1)
			if got := fmt.Sprint(c.Events()); c.ID() != id || c.HasPID() || got != "[[n missed]]" {
				r.t.Errorf("as %s, pid %v, with %s", c.ID(), c.HasPID(), got)
			}
			r.awaitConfirmed()
			c.Cut()
			c = r.dial(imitatedKey)
		}
		if got := r.disconnected(); len(got) > 0 {
			r.t.Errorf("the server saw %v", got)
		}
	})
}

// A client that counts gets the rest, although nothing of it was confirmed before the drop.
func TestImitatedClientsCount(t *testing.T) {
	eachImitated(t, withKey, func(r *imitated) {
		c := r.dial(imitatedKey)
		id, s := c.ID(), r.socket(0)
		const rounds = 4
		var all []string
		for i := range rounds {
			s.Emit("n", i)
			s.Emit("n", i)
			r.awaitEvents(c, 1) // or both
			c.Cut()
			for _, event := range c.Events() {
				all = append(all, fmt.Sprint(event...))
			}
			c = r.dial(fmt.Sprintf("%s&hf_n=/:%d", imitatedKey, len(all)))
			if c.ID() != id {
				r.t.Fatalf("a fresh session after %d events", len(all))
			}
			r.awaitEvents(c, 2*(i+1)-len(all))
			for _, event := range c.Events() {
				all = append(all, fmt.Sprint(event...))
			}
			c.Cut()
			c = r.dial(fmt.Sprintf("%s&hf_n=/:%d", imitatedKey, len(all)))
		}
		var want []string
		for i := range rounds {
			want = append(want, fmt.Sprint("n", i), fmt.Sprint("n", i))
		}
		if !slices.Equal(all, want) {
			r.t.Errorf("it got %v", all)
		}
	})
}

// Without a key, a client that holdfast recognizes gets exactly what the server sent, and leaves
// nothing behind. One that it does not recognize gets an offset, as a client that can resume.
func TestImitatedClientsByDefault(t *testing.T) {
	eachImitated(t, nil, func(r *imitated) {
		c := r.dial("")
		r.socket(0).Emit("n", "x")
		r.awaitEvents(c, 1)
		if !slices.Contains(r.lib.Recognized, r.transport) {
			if got := c.Events()[0]; len(got) != 3 || !c.HasPID() {
				r.t.Errorf("it got %v, pid %v", got, c.HasPID())
			}
			return
		}
		if got := fmt.Sprint(c.Events()); got != "[[n x]]" || c.HasPID() {
			r.t.Errorf("it got %s, pid %v", got, c.HasPID())
		}
		if r.transport == imitation.Polling {
			return // between two polls a drop is noticed only by the heartbeat
		}
		c.Cut()
		r.await("the server to see the drop", func() bool { return len(r.disconnected()) == 1 })
		if _, parked := r.proxy.registry.Counts(); parked != 0 {
			r.t.Error("a session is parked")
		}
	})
}

func TestImitatedClientsComeBack(t *testing.T) {
	ends := map[string]func(r *imitated){
		"its server is lost": func(r *imitated) {
			for _, l := range r.proxy.conns.allLinks() {
				l.conn.Abort()
			}
		},
		"holdfast stops": func(r *imitated) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			r.proxy.Shutdown(ctx)
		},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			eachImitated(t, withKey, func(r *imitated) {
				c := r.dial(imitatedKey)
				end(r)
				if err := c.Wait(); err != nil {
					r.t.Error(err)
				}
			})
		})
	}
	if imitation.Java.Returns(imitation.CloseFrame) || imitation.CPP.Returns(imitation.CloseFrame) {
		t.Error("the imitated clients return after a Close frame without a code, which the real ones do not")
	}
}
