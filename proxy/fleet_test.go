package proxy

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast/holdfast/internal/cluster"
)

// TestReplicas lets pages roam over three replicas at random, while the connections between
// replicas break, hang in one direction or both, and replicas are killed. The application and the
// pages are those of FuzzProxy, with the same rules: a page gets the events of a session once and
// in order, over one connection at a time.
//
// A session may only be lost with its replica, or while replicas do not reach each other. In the
// end nothing is left: no session, no client, no relay, no memory, and no goroutine.
func TestReplicas(t *testing.T) { rapid.Check(t, checkReplicas) }

func checkReplicas(t *rapid.T) {
	rapid.SyncTest(t, func(t *rapid.T) {
		runFleet(t, nil, func(what string, n int) int { return rapid.IntRange(0, n-1).Draw(t, what) })
	})
}

// runFleet runs the model. choose makes a choice, less than n; what says about what. With a log the
// pages also poll.
func runFleet(t modelT, log *modelLog, choose func(what string, n int) int) {
	f := newFleet(t, log, choose)
	defer f.shutdown()
	for i := range 20 + choose("steps", 71) {
		f.step(i + 1)
		synctest.Wait()
		if t.Failed() {
			break
		}
	}
	f.drain()
}

const (
	replicas3 = 3
	// healing is how long replicas may take to reach each other again, and to tell what was missed:
	// a handshake that hangs, two pauses, and a look-up.
	healing = 15 * time.Second
	// silence is more than a connection between replicas may be silent.
	silence = 7 * time.Second
)

// fleet is a model of several replicas.
type fleet struct {
	*model

	net     *peerNetwork
	members []*member // by place
	started int       // members so far
	keys    *cluster.Keys
	doing   string // the step, which labels its choices in the log
	came    map[*page]time.Time
	quiet   atomic.Int64 // the fleet is in order from then on (Unix time in ns), unless a hole is open
}

// member is a replica at a place. A killed one is replaced by another with the same address.
type member struct {
	*modelReplica
	node  *cluster.Node
	addr  string
	peers *peerListener
}

func newFleet(t modelT, log *modelLog, choose func(what string, n int) int) *fleet {
	f := &fleet{model: newModel(t, choose("park", 2) == 1), doing: "begin", net: newPeerNetwork(), members: make([]*member, replicas3), came: make(map[*page]time.Time)}
	f.log = log
	f.choose = func(n int) int { return choose(f.doing, n) }
	if log != nil {
		f.poll()
	}
	f.net.jitter = f.newJitter
	f.slack = silence
	f.excuses = func() bool { return f.net.holes() > 0 || time.Now().UnixNano() < f.quiet.Load() }
	var err error
	if f.keys, err = cluster.NewKeys([]string{"a secret of the tests, which has enough bytes"}); err != nil {
		t.Fatal(err)
	}
	for i := range f.members {
		f.start(i)
	}
	time.Sleep(3 * time.Second)
	return f
}

func peerAddress(place int) string { return fmt.Sprintf("10.0.0.%d:7400", place+1) }

// start starts a replica at a place.
func (f *fleet) start(place int) {
	f.started++
	m := &member{addr: peerAddress(place)}
	var addrs []string
	for i := range f.members {
		addrs = append(addrs, peerAddress(i))
	}
	m.modelReplica = f.startReplica(func(r *modelReplica) {
		m.node = r.proxy.JoinCluster(cluster.Options{
			ID: fmt.Sprintf("replica%d", f.started%10), Name: "test", Advertise: m.addr, Keys: f.keys,
			Book: cluster.Hosts{Addrs: addrs}, Dial: f.net.dialler(place),
		})
	})
	m.peers = f.net.listen(place)
	m.node.Start(m.peers)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.members[place] = m
	f.fleet = append(f.fleet, m.modelReplica)
}

func (f *fleet) any() *member { return f.members[f.choose(len(f.members))] }

// steps are the kinds of steps; some come more often.
var steps = [...]string{
	"emit", "emit", "emit", "emit", "send", "send", "cut", "cut later", "roam", "roam", "roam", "roam",
	"stall", "end", "pass", "ghost", "peers", "peers", "peers", "peers",
}

func (f *fleet) step(n int) {
	f.doing = fmt.Sprintf("step %d", n)
	p := f.pages[pageNames[f.choose(len(pageNames))]]
	s := p.spaces[[]string{"/", "/a"}[f.choose(2)]]
	kind := steps[f.choose(len(steps))]
	f.doing += ": " + kind + " " + p.name + s.name
	f.logf("%s", f.doing)
	switch kind {
	case "emit":
		for range 1 + f.choose(4) {
			f.emit(s, f.choose(6))
		}
	case "send":
		f.send(s, f.choose(4))
	case "cut":
		f.cut(p, f.choose(5))
	case "cut later":
		p.cutAfter(1 + f.choose(256))
	case "roam":
		f.roam(p)
	case "stall":
		p.stall(f.choose(2) == 0)
	case "end":
		switch f.choose(3) {
		case 0:
			f.disconnect(s)
		case 1:
			f.leave(s)
		case 2:
			f.again(s)
		}
	case "pass":
		f.pass(time.Duration(f.choose(60)) * time.Second)
	case "ghost":
		f.ghost(s)
	case "peers":
		f.breakPeers(f.choose(8))
	}
}

// roam makes a page connect to any replica: up to twice in a few milliseconds, so that requests to
// the owner race, and otherwise no more often than clients do. A client that leaves repeatedly
// without an answer looks like one that cannot decode a packet.
func (f *fleet) roam(p *page) {
	if time.Since(f.came[p]) < time.Second {
		time.Sleep(time.Second)
	}
	f.came[p] = time.Now()
	for range 1 + f.choose(2) {
		time.Sleep(time.Duration(5+f.choose(20))*time.Millisecond + f.latency) // the order of handshakes must be known
		p.come(f.any().modelReplica)
		synctest.Wait()
	}
}

// breakPeers does something to the connections between replicas.
func (f *fleet) breakPeers(how int) {
	from, to := f.choose(len(f.members)), f.choose(len(f.members))
	f.mu.Lock()
	f.faults++
	f.mu.Unlock()
	switch how {
	case 0, 1: // relayed clients reconnect, and nothing is lost
		f.net.cut(from, to)
		f.disturbed(time.Second)
	case 2:
		f.net.hole(from, to, true)
	case 3:
		f.net.hole(from, to, true)
		f.net.hole(to, from, true)
	case 4: // one that is stopped briefly
		for i := range f.members {
			f.net.hole(from, i, true)
			f.net.hole(i, from, true)
		}
		f.pass(5 * time.Second)
		f.heal()
	case 5, 6:
		f.heal()
	case 7:
		if f.choose(4) == 0 {
			f.kill(from)
		}
	}
}

// disturbed notes that sessions may be lost for a while.
func (f *fleet) disturbed(d time.Duration) {
	f.quiet.Store(max(f.quiet.Load(), time.Now().Add(d).UnixNano())) // only the test itself writes it
}

func (f *fleet) heal() {
	if f.net.holes() > 0 {
		f.disturbed(healing)
		f.net.heal()
	}
}

// kill cuts all connections of a replica, and starts another one in its place.
func (f *fleet) kill(place int) {
	f.disturbed(healing)
	m := f.members[place]
	f.net.leave(place)
	f.mu.Lock()
	var dead []*wire
	for _, l := range f.links {
		if l.from != m.modelReplica {
			continue
		}
		dead, l.over = append(dead, l.wire), true
		for _, s := range l.spaces {
			s.alive, s.dropped = false, true
		}
	}
	wires := slices.Clone(f.wires)
	f.mu.Unlock()
	for _, w := range dead {
		w.close()
	}
	for _, w := range wires {
		w.cutFrom(m.modelReplica)
	}
	synctest.Wait()
	f.stop(m.modelReplica)
	m.node.Close()
	f.pass(time.Duration(f.choose(10)) * time.Second)
	f.disturbed(healing)
	f.start(place)
}

// ghost makes a page send something over a connection that it has left, after its session was
// resumed over a newer one. The application must not get it.
func (f *fleet) ghost(s *space) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := s.page
	if p.conn == nil || s.asked != "" || s.left || !s.shown || s.replied != p.conn.number {
		return
	}
	for _, w := range p.wires {
		if w != p.conn && !w.closed() {
			w.write(text("42" + prefix(s.name) + `["ghost",0,"` + s.sid + `"]`))
		}
	}
}

// drain ends all faults, brings the pages back, and checks that nothing is left when they are gone.
func (f *fleet) drain() {
	f.doing = "drain"
	f.heal()
	f.pass(healing + silence)
	f.bringBack(func() *modelReplica { return f.any().modelReplica })
	for _, p := range f.pages {
		f.cut(p, 0)
	}
	f.pass(keptFor + noticed + 20*time.Second)
	for _, m := range f.members {
		live, parked := m.proxy.registry.Counts()
		edge, owner := m.proxy.replicas.counts()
		clients, links := len(m.proxy.conns.allClients()), len(m.proxy.conns.allLinks())
		streams := 0
		for _, p := range m.node.Peers() {
			streams += p.Streams
		}
		if left := []int{live, parked, edge, owner, clients, links, streams, int(m.proxy.budget.Bytes())}; slices.Max(left) > 0 {
			f.t.Errorf("%s has live, parked sessions; relays as edge, as owner; clients, links, streams to others, bytes: %v", m.addr, left)
		}
	}
}

// shutdown stops what is left, also after a panic: rapid ends a run so that it has no more choices
// for.
func (f *fleet) shutdown() {
	f.mu.Lock()
	f.over = true
	f.mu.Unlock()
	for _, p := range f.pages {
		p.coming.Lock()   // what is opening now can still do so
		p.coming.Unlock() //nolint:staticcheck // it only waits
	}
	f.net.heal()
	for _, m := range f.members {
		f.stop(m.modelReplica)
		m.node.Close()
	}
	f.net.close()
	f.mu.Lock()
	wires := slices.Clone(f.wires)
	f.mu.Unlock()
	for _, w := range wires {
		w.close()
	}
	time.Sleep(time.Minute) // until the last timer knows
	synctest.Wait()
}
