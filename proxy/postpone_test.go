package proxy

import (
	"testing"
	"testing/synctest"
	"time"
)

// A client comes back to another replica. Its session in one namespace has ended, and the other
// namespace is new. Both are connected soon, although the client sends nothing more.
func TestNewNamespaceBesideAnEndedSession(t *testing.T) {
	for _, by := range []transport{byWebSocket, byPolling} {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t, nil, func(string, int) int { return 0 })
			defer f.shutdown()
			p := f.pages["p"]
			p.transport = by
			added := p.spaces["/a"]
			delete(p.spaces, "/a")
			p.come(f.members[0].modelReplica)
			f.pass(time.Second)
			f.cut(p, 0)
			f.disconnect(p.spaces["/"])
			synctest.Wait()

			p.spaces["/a"] = added
			p.come(f.members[1].modelReplica)
			time.Sleep(2 * time.Second)
			synctest.Wait()
			for name, s := range p.spaces {
				if !s.up {
					t.Errorf("%s is not connected", name)
				}
			}
			f.drain()
		})
	}
}
