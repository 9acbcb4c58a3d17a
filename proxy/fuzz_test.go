package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/upstream"
	"github.com/holdfast/holdfast/metrics"
)

// keptFor is the configured max_disconnection_duration.
const keptFor = 2 * time.Minute

// maxChoices limits a run to a few seconds.
const maxChoices = 2000

// noticed is how long the heartbeat takes at most to detect that a page left a connection.
const noticed = 45 * time.Second

// garbagePage is the name of a page whose connections send garbage on both ends.
const garbagePage = "garbage"

// FuzzProxy lets pages and an application talk through a whole Server at random. They send events
// of all kinds both ways. Connections are cut anywhere, even inside a frame, and new ones open
// while the old one is still open. Pages stall and disconnect, links die, and time passes. Other
// connections send garbage on both ends.
//
// A naive model checks the outcome. A page gets the events of a session once and in order. The
// application sees neither drops nor partial packets. Sessions live exactly as long as they should.
func FuzzProxy(f *testing.F) {
	for seed := range uint64(8) {
		choices := make([]byte, 600)
		state := seed*0x9e3779b97f4a7c15 + 1
		for i := range choices {
			state = state*6364136223846793005 + 1442695040888963407
			choices[i] = byte(state >> 33)
		}
		f.Add(choices)
		f.Add(choices[1:]) // with on_client_disconnect: park
	}
	f.Fuzz(runModel)
}

// TestModelAtRandom is FuzzProxy with choices at random. The first seeds have found errors: packets
// left out that a page could decode, and events that came twice or not at all.
func TestModelAtRandom(t *testing.T) {
	seeds := []uint64{69, 1805, 1843, 5083, 5922, 6929, 14065, 17790, 18283}
	seeds = append(seeds, 20150, 20378, 20948, 21408, 21713, 22610) // with pages that are slow to come back
	for seed := range uint64(40) {
		seeds = append(seeds, 20000+seed)
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			choices := make([]byte, 100+random.IntN(900))
			for i := range choices {
				choices[i] = byte(random.Uint32())
			}
			runModel(t, choices)
		})
	}
}

func runModel(t *testing.T, choices []byte) {
	synctest.Test(t, func(t *testing.T) {
		m := newModel(t, len(choices)%2 == 1)
		m.choices = choices[:min(len(choices), maxChoices)]
		m.modelReplica = m.startReplica(nil)
		for _, name := range []string{"p", "q"} {
			kind, p := m.choose(16), m.pages[name]
			p.closes, p.tolerant = kind&1 == 0, kind&2 != 0
			p.delay = []time.Duration{0, time.Second, 3 * time.Second, 8 * time.Second}[kind>>2]
		}
		for len(m.choices) > 0 && !t.Failed() {
			m.step()
			synctest.Wait()
		}
		m.drain()
	})
}

// modelT is what a model needs of a test.
type modelT interface {
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Failed() bool
}

// model is a Server between pages and an application, or several, and the expected state of both
// ends.
type model struct {
	*modelReplica // the only one; nil in a fleet

	t                modelT
	choices          []byte          // for nextChoice
	choose           func(n int) int // makes a choice, less than n
	parkOnDisconnect bool            // recovery.on_client_disconnect is park
	// excuses reports whether a session may be lost now, because replicas do not reach each other.
	// Nil excuses nothing.
	excuses func() bool
	// slack is how much later than the owner of its session a page may learn that its connection is
	// gone.
	slack time.Duration

	mu      sync.Mutex // guards the fields below and those of pages and sockets
	pages   map[string]*page
	links   []*upstreamLink
	sockets []*socket
	sids    int
	faults  int             // of the connections between replicas
	fleet   []*modelReplica // all that there were, if there are several
	missed  int             // events that only a packet left out explains
	wires   []*wire

	draining bool // pages come back by themselves
	over     bool // no page comes back
}

// modelReplica is one Server of a model.
type modelReplica struct {
	proxy   *Server
	metrics *metrics.Metrics
	server  *http.Server
	conns   chan net.Conn // accepted by server
}

func newModel(t modelT, parkOnDisconnect bool) *model {
	m := &model{t: t, parkOnDisconnect: parkOnDisconnect, pages: make(map[string]*page)}
	m.choose = m.nextChoice
	for _, name := range []string{"p", "q"} {
		p := &page{m: m, name: name, spaces: make(map[string]*space)}
		p.spaces["/"] = &space{page: p, name: "/"}
		p.spaces["/a"] = &space{page: p, name: "/a"}
		m.pages[name] = p
	}
	return m
}

// startReplica starts a Server. join makes it one of several, unless it is nil.
func (m *model) startReplica(join func(*modelReplica)) *modelReplica {
	cfg := config.Default()
	cfg.Recovery.MaxDisconnectionDuration = keptFor
	if m.parkOnDisconnect {
		cfg.Recovery.OnClientDisconnect = config.ParkSession
	}
	r := &modelReplica{metrics: metrics.New(prometheus.NewRegistry()), conns: make(chan net.Conn)}
	var err error
	if r.proxy, err = New(cfg, slog.New(slog.DiscardHandler), r.metrics); err != nil {
		m.t.Fatal(err)
	}
	cfg.Upstream.HandshakeTimeout = time.Second
	if r.proxy.upstream, err = upstream.New(cfg.Upstream, upstream.Options{
		Connect: func(ctx context.Context, _, _ string) (net.Conn, error) { return m.dialUpstream(ctx, r) },
	}); err != nil {
		m.t.Fatal(err)
	}
	if join != nil {
		join(r)
	}
	r.server = &http.Server{Handler: r.proxy}
	go r.server.Serve(modelListener(r.conns)) //nolint:errcheck // returns when it is closed
	return r
}

// nextChoice returns the fuzzer's next choice, less than n.
func (m *model) nextChoice(n int) int {
	if len(m.choices) == 0 {
		return 0
	}
	b := m.choices[0]
	m.choices = m.choices[1:]
	return int(b) % n
}

func (m *model) step() {
	p := m.pages[[]string{"p", "q"}[m.choose(2)]]
	s := p.spaces[[]string{"/", "/a"}[m.choose(2)]]
	switch m.choose(16) {
	case 0, 1, 2, 3:
		for range 1 + m.choose(4) {
			m.emit(s, m.choose(8))
		}
	case 4, 5, 6:
		m.send(s, m.choose(4))
	case 7:
		m.cut(p, m.choose(5))
	case 8:
		p.cutAfter(1 + m.choose(256))
	case 9, 10, 11:
		p.come(m.modelReplica)
	case 12:
		p.stall(m.choose(2) == 0)
	case 13:
		switch m.choose(4) {
		case 0:
			m.disconnect(s)
		case 1:
			m.leave(s)
			if m.parkOnDisconnect && m.choose(4) == 0 {
				m.again(s)
			}
		case 2:
			m.again(s)
		case 3:
			m.killLink(p)
		}
	case 14:
		m.pass(time.Duration(m.choose(150)) * time.Second)
	case 15:
		m.sendGarbage()
	}
}

// emit makes the application send an event to a page's session.
func (m *model) emit(sp *space, kind int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.socket(sp.sid)
	if s == nil || !s.alive {
		return
	}
	if m.parkOnDisconnect && kind > 5 || !sp.page.closes && kind == 1 {
		kind = 5 // a client before 4.8 may lose what comes behind something that it cannot decode, if that is much
	}
	n := len(s.sent) + 1
	attached := sp.page.connected() || m.excuses != nil && m.excuses() // the owner may not know that it is gone
	s.sent = append(s.sent, emitted{
		asks: kind == 0, attached: attached, poison: kind == 6 && !sp.page.tolerant || kind == 7, faults: m.faults, after: sp.replied,
	})
	size := 0
	if kind == 1 {
		size = 30_000
	}
	args := fmt.Sprintf(`["n",%d,"%s","%s"`, n, s.sid, strings.Repeat("x", size))
	switch kind {
	case 0:
		s.link.write(text("42" + prefix(s.space) + fmt.Sprint(n) + args + "]"))
	case 2:
		s.link.write(text("452-" + prefix(s.space) + args + `,{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]`))
		s.link.write(binary("one"), binary(""))
	case 6:
		s.link.write(text("451-" + prefix(s.space) + args + "," + misplaced + "]"))
		s.link.write(binary("one"))
	case 7:
		s.link.write(text("42" + prefix(s.space) + args + notJSON + "]"))
	default:
		s.link.write(text("42" + prefix(s.space) + args + "]"))
	}
}

// send makes a page send an event.
func (m *model) send(s *space, kind int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.page.conn == nil || s.asked != "" || s.left || s.sid == "" {
		return
	}
	s.page.sent++
	s.shown = true
	args := fmt.Sprintf(`["c",%d`, s.page.sent)
	if kind == 0 {
		s.page.conn.write(text("451-"+prefix(s.name)+args+`,{"_placeholder":true,"num":0}]`), binary("data"))
	} else {
		s.page.conn.write(text("42" + prefix(s.name) + args + "]"))
	}
}

// cut ends a page's connection in one of many ways.
func (m *model) cut(p *page, how int) {
	m.mu.Lock()
	w := p.conn
	m.mu.Unlock()
	if w == nil {
		return
	}
	switch how {
	case 0:
	case 1: // half of a binary event
		w.write(text(`452-["c",0,{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]`), binary("one"))
	case 2: // half of a frame
		whole := w.compile(text(`42["c",0,"never whole"]`))
		w.out <- whole[:1+m.choose(len(whole)-1)]
	case 3:
		w.write(text("1"))
	case 4:
		w.write(frame{ws.OpClose, ws.NewCloseFrameBody(ws.StatusNormalClosure, "")})
	}
	if how == 3 || how == 4 {
		m.mu.Lock()
		for _, s := range p.spaces {
			s.doubtful = !s.shown
		}
		m.mu.Unlock()
	}
	p.gone()
	synctest.Wait()
	w.close()
}

// cutAfter cuts the connection after the page has read n more bytes.
func (p *page) cutAfter(n int) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.conn != nil {
		p.conn.left.Store(int64(n))
	}
}

func (p *page) stall(on bool) {
	p.m.mu.Lock()
	w := p.conn
	p.m.mu.Unlock()
	if w != nil {
		w.stall(on)
	}
}

// disconnect makes the application disconnect a page's socket.
func (m *model) disconnect(sp *space) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.socket(sp.sid); s != nil && s.alive {
		s.alive, s.dropped = false, true
		delete(s.link.spaces, s.space)
		s.link.dropped[s.space] = true
		s.link.write(text("41" + prefix(s.space)))
	}
}

// leave makes a page disconnect from a namespace.
func (m *model) leave(s *space) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.page.conn != nil && s.asked == "" && !s.left && s.sid != "" {
		s.left = true
		s.page.conn.write(text("41" + prefix(s.name)))
	}
}

// again makes a page connect to a namespace that it left.
func (m *model) again(s *space) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.page.conn != nil && s.left && s.asked == "" {
		// Two CONNECTs: before the first reply the page calls disconnect(), which sends nothing,
		// and connect().
		if twice := m.choose(4); !m.parkOnDisconnect && twice > 1 {
			first, second := s.connectPacket(""), s.connectPacket("")
			if twice == 3 {
				second = s.connectPacket(`"other":"auth"`)
			}
			s.page.conn.writeTogether(text(first), text(second))
			return
		}
		s.connect()
		if from := m.socket(s.sid); from != nil && m.parkOnDisconnect {
			// This connection may be stalled or cut, so any event may have been in flight on it.
			for i := range from.sent {
				from.sent[i].attached = true
			}
		}
	}
}

func (m *model) killLink(p *page) {
	m.mu.Lock()
	var dead *upstreamLink
	for _, l := range m.links {
		if l.page == p.name && !l.closed() {
			dead = l
		}
	}
	if dead != nil {
		for _, s := range dead.spaces {
			s.alive, s.dropped = false, true
		}
	}
	m.mu.Unlock()
	if dead != nil {
		dead.close()
	}
}

// pass advances the clock, with the server's heartbeat.
func (m *model) pass(d time.Duration) {
	const step = 5 * time.Second
	for range (d + step - 1) / step {
		time.Sleep(step)
		m.mu.Lock()
		for _, l := range m.links {
			if l.beat++; l.beat%5 == 0 {
				l.write(text("2"))
			}
		}
		for _, p := range m.pages {
			if p.conn != nil && p.conn.stalled() {
				p.stale = true
			}
		}
		m.mu.Unlock()
	}
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.sockets {
		p := m.pages[s.page]
		if s.alive && p != nil && p.conn == nil && !p.stale && time.Since(p.away) > keptFor+noticed+step {
			m.t.Errorf("the server still has %s%s after %v", s.page, s.space, time.Since(p.away))
		}
	}
}

// nasty are the messages that such connections send, besides bytes of the fuzzer.
var nasty = []string{
	"40", "40/a,", `40{"pid":"hfx","offset":"hfy"}`, `40{"pid":1}`, "41", "41/a", "42[]", "42", `42["c",1]`, `43[1]`, `430[]`,
	`451-["c",{"_placeholder":true,"num":0}]`, `459999999999-["c"]`, `4520-["c"]`, `461-1[{}]`, "44", "1", "2", "3", "5", "6",
	"2probe", "4", "", "b", "bAAA=", "40/" + strings.Repeat("n", 5000) + ",", `40{"sid":"x"}`, `40/a,{"sid":"x","pid":"y"}`,
	`0{"sid":"x","upgrades":[],"pingInterval":1,"pingTimeout":1}`, `42/a,["c",1]`, `42/nowhere,["c",1]`, "47", "\xff",
}

// sendGarbage opens a connection and sends garbage from both ends.
func (m *model) sendGarbage() {
	w := m.dialProxy(m.modelReplica, garbagePage, func(*wire, string, bool) {}, func(*wire) {}, func(*wire) {})
	m.mu.Lock()
	l := m.links[len(m.links)-1]
	m.mu.Unlock()
	for range m.choose(12) {
		to := []*wire{w, l.wire}[m.choose(2)]
		switch m.choose(4) {
		case 0:
			n := min(m.choose(32), len(m.choices))
			to.out <- m.choices[:n]
			m.choices = m.choices[n:]
		case 1:
			to.write(binary("attachment"))
		default:
			to.write(text(nasty[m.choose(len(nasty))]))
		}
		if m.choose(4) == 0 {
			m.pass(time.Second)
		}
		synctest.Wait()
	}
	w.close()
	if m.choose(2) == 0 {
		l.close()
	}
}

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
	for _, p := range m.pages {
		m.mu.Lock()
		away := p.conn == nil
		m.mu.Unlock()
		if away {
			p.come(at())
		}
	}
	m.pass(30 * time.Second)
	for range 40 { // each packet that a page cannot decode takes it a few reconnections
		if len(m.missing()) > 0 {
			m.pass(10 * time.Second)
		}
	}
	for _, what := range m.missing() {
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
}
