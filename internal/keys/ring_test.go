package keys

import (
	"fmt"
	"testing"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/session"
)

// A hundred thousand ended keys leave a bounded number of reasons, and nothing else.
func TestManyKeys(t *testing.T) {
	registry := session.NewRegistry(session.Limits{MaxPackets: 1, MaxBytes: 1, WindowBytes: 1}, 1, buffer.NewBudget(0), noObserver{})
	ring := new(Ring)
	for i := range 100_000 {
		s := registry.New(noUpstream{}, "/", noOwner{}, true).Session()
		s.SetKey(session.Key{Digest: ring.Digest(fmt.Sprintf("key-%016d", i))})
		ring.Add(s)
		ring.Closed(s, reason.Expired)
		registry.Close(s, reason.Expired)
	}
	ring.mu.Lock()
	defer ring.mu.Unlock()
	if len(ring.groups) != 0 || ring.ends.Len() > rememberedKeys {
		t.Errorf("%d groups and %d reasons are left", len(ring.groups), ring.ends.Len())
	}
}

type noObserver struct{ session.Observer }

func (noObserver) Closed(*session.Session, reason.Reason, session.State, int) {}

type noUpstream struct{ session.Upstream }

func (noUpstream) SessionsClosed([]*session.Session, reason.Reason) {}

type noOwner struct{}

func (noOwner) Handshake() uint64 { return 1 }
