package proxy

import (
	"context"
	"fmt"
	"slices"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// missing returns what pages have not received.
func (m *model) missing() (list []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.pages {
		for _, sp := range p.spaces {
			s := m.socket(sp.sid)
			if s == nil || !s.alive || sp.left {
				continue
			}
			for n := sp.last; n < len(s.sent); n++ {
				if !m.mayMiss(s.sent[n]) {
					list = append(list, fmt.Sprintf("%s%s did not get event %d of %d", p.name, sp.name, n+1, len(s.sent)))
				}
			}
		}
	}
	return list
}

// drain brings all pages back, checks that they got everything, and shuts down.
func (m *model) drain() {
	m.bringBack(func() *modelReplica { return m.modelReplica })
	for _, p := range m.pages {
		m.cut(p, 0)
	}
	m.pass(keptFor + noticed + 20*time.Second)
	m.stop(m.modelReplica)
	for _, w := range m.wires {
		w.close()
	}
	synctest.Wait()
}

// bringBack brings all pages back, and checks that they got everything. at chooses where they
// connect.
func (m *model) bringBack(at func() *modelReplica) {
	for _, p := range m.pages {
		p.stall(false)
	}
	m.pass(10 * time.Second)
	m.mu.Lock()
	m.draining = true
	m.mu.Unlock()
	for _, name := range pageNames {
		p := m.pages[name]
		m.mu.Lock()
		away := p.conn == nil
		m.mu.Unlock()
		if away {
			p.come(at())
		}
	}
	m.pass(30 * time.Second)
	for range 40 { // each packet that a page cannot decode takes it a few reconnections
		if len(m.missing())+len(m.unheard()) > 0 {
			m.pass(10 * time.Second)
		}
	}
	for _, what := range slices.Concat(m.missing(), m.unheard(), m.twice()) {
		m.t.Error(what)
	}
	m.mu.Lock()
	m.over = true
	var left []*wire // after something that a page could not decode; it does not come back
	for _, p := range m.pages {
		for _, w := range p.wires {
			if w != p.conn {
				left = append(left, w)
			}
		}
	}
	m.mu.Unlock()
	for _, w := range left {
		w.close()
	}
}

// stop shuts a Server down, and checks that nothing is left of it.
func (m *model) stop(r *modelReplica) {
	if got := testutil.ToFloat64(r.metrics.Panics); got != 0 {
		m.t.Errorf("%v panics", got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r.proxy.Shutdown(ctx)
	if live, parked := r.proxy.registry.Counts(); live+parked != 0 || r.proxy.budget.Bytes() != 0 {
		m.t.Errorf("%d live, %d parked sessions, %d bytes are left", live, parked, r.proxy.budget.Bytes())
	}
	_ = r.server.Close() // the run is over
	_ = r.app.Close()
}
