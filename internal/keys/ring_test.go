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

// A replica yields the claim that does not hold, and not one that it has made since: the other
// replica may have released the key meanwhile.
func TestLaterClaimStays(t *testing.T) {
	now := int64(100)
	ring := new(Ring)
	ring.Join(NewDirectory("a", func() int64 { return now }, ring.Claims, func([]byte, []string) {}), ClusterSalt("test"))
	k := session.Key{Digest: ring.Digest("key-0123456789")}
	ring.Claim(k, noOwner{}, "/", "")
	lost := ring.Beaten("b", "a", []Claim{{Digest([]byte(k.Digest)), 200}})
	if len(lost) != 1 {
		t.Fatal("lost", lost)
	}
	ring.Release(k.Digest, noOwner{})
	now = 300
	ring.Claim(k, noOwner{}, "/", "")
	if _, owner := ring.TakeAway(lost[0]); owner != nil || !ring.Has(k.Digest) {
		t.Error("the later claim is taken away")
	}
	ring.Release(k.Digest, noOwner{})
}

type noObserver struct{ session.Observer }

func (noObserver) Closed(*session.Session, reason.Reason, session.State, int) {}

type noUpstream struct{ session.Upstream }

func (noUpstream) SessionsClosed([]*session.Session, reason.Reason) {}

type noOwner struct{}

func (noOwner) Handshake() uint64 { return 1 }
