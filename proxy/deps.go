package proxy

import (
	"sync/atomic"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/binding"
	"github.com/holdfast/holdfast/internal/keys"
	"github.com/holdfast/holdfast/internal/upstream"
	"github.com/holdfast/holdfast/session"
)

// deps is what clients, links and the parts of the Server have in common: the parts that they use,
// and the state of the whole.
type deps struct {
	*reporter // immutable, like the next ones
	registry  *session.Registry
	budget    *buffer.Budget
	upstream  *upstream.Upstream
	protocol  *upstreamProtocol
	binder    *binding.Binder
	cache     *handshakeCache // nil unless handshakes are lazy
	notify    *notifier
	joins     *joins    // nil if events.join names none
	replicas  *replicas // nil unless JoinCluster was called

	current    atomic.Pointer[settings] // changed by Reload
	phase      phase
	conns      conns
	incomplete incomplete
	keyring    keys.Ring
	asked      askedClients
}

// settings returns the settings in force.
func (d *deps) settings() *settings { return d.current.Load() }

// phase is whether the Server takes new clients. It is safe for concurrent use:
//
//	serving -> leaving            a handover to another process begins
//	leaving -> serving            it has failed
//	serving, leaving -> draining  Shutdown; terminal
type phase struct{ v atomic.Uint32 }

const (
	phaseServing uint32 = iota
	phaseLeaving
	phaseDraining
)

// move is the only place where a phase changes. It reports whether the transition exists.
func (p *phase) move(to uint32) bool {
	for {
		from := p.v.Load()
		if from == to || from == phaseDraining {
			return false
		}
		if p.v.CompareAndSwap(from, to) {
			return true
		}
	}
}

// is reports whether the phase is v.
func (p *phase) is(v uint32) bool { return p.v.Load() == v }

// stopping reports whether new clients should go to another process.
func (p *phase) stopping() bool { return !p.is(phaseServing) }
