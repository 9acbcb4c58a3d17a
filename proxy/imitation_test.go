package proxy

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/siotest/imitation"
)

func imitate(t *testing.T, r *rig, lib *imitation.Library, query string) *imitation.Client {
	t.Helper()
	c, err := imitation.Dial(lib, strings.TrimPrefix(r.url, "http://"), query)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Cut)
	r.await("the reply to "+lib.Name, func() bool { return c.ID() != "" })
	return c
}

func TestImitatedClients(t *testing.T) {
	for _, lib := range imitation.Libraries() {
		t.Run(lib.Name, func(t *testing.T) {
			const query = "&hf_key=0123456789abcdef0123"

			t.Run("recovers by its key", func(t *testing.T) {
				r := newRig(t, withKey)
				c := imitate(t, r, lib, query)
				id, s := c.ID(), r.socket(0)
				for i := range 3 {
					s.Emit("n", i)
					r.await("the event", func() bool { return len(c.Events()) == 1 })
					r.await("its confirmation", func() bool { return r.proxy.budget.Packets() == 0 })
					c.Cut()
					s.Emit("n", "missed")
					c = imitate(t, r, lib, query)
					r.await("what it missed", func() bool { return len(c.Events()) == 1 })
					if got := fmt.Sprint(c.Events()); c.ID() != id || c.HasPID() || got != "[[n missed]]" {
						t.Errorf("as %s, pid %v, with %s", c.ID(), c.HasPID(), got)
					}
					c.Cut()
					c = imitate(t, r, lib, query)
				}
				if got := r.disconnected(); len(got) > 0 {
					t.Errorf("the server saw %v", got)
				}
			})

			t.Run("without a key, gets what was sent, and leaves nothing behind", func(t *testing.T) {
				r := newRig(t, nil)
				c := imitate(t, r, lib, "")
				r.socket(0).Emit("n", "x")
				r.await("the event", func() bool { return len(c.Events()) == 1 })
				if got := fmt.Sprint(c.Events()); got != "[[n x]]" || c.HasPID() {
					t.Errorf("it got %s, pid %v", got, c.HasPID())
				}
				c.Cut()
				r.await("the server to see the drop", func() bool { return len(r.disconnected()) == 1 })
				if _, parked := r.proxy.registry.Counts(); parked != 0 {
					t.Error("a session is parked")
				}
			})

			for name, end := range map[string]func(r *rig, c *imitation.Client){
				"its server is lost": func(r *rig, _ *imitation.Client) {
					for _, l := range r.proxy.conns.allLinks() {
						l.conn.Abort()
					}
				},
				"holdfast stops": func(r *rig, _ *imitation.Client) {
					ctx, cancel := context.WithCancel(context.Background())
					cancel()
					r.proxy.Shutdown(ctx)
				},
			} {
				t.Run("comes back when "+name, func(t *testing.T) {
					r := newRig(t, func(c *config.Config) { withKey(c) })
					c := imitate(t, r, lib, query)
					end(r, c)
					if err := c.Wait(); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
	if imitation.Java.Returns(imitation.CloseFrame) || imitation.CPP.Returns(imitation.CloseFrame) {
		t.Error("the imitated clients return after a Close frame without a code, which the real ones do not")
	}
}
