package cluster

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/internal/limit"
)

// Why a stream to an owner could not be opened.
var (
	// ErrGone means that the replica with this id no longer exists.
	ErrGone = errors.New("cluster: the replica is gone")
	// ErrUnreachable means that the replica cannot be reached at the moment, and may still exist.
	ErrUnreachable = errors.New("cluster: the replica cannot be reached")
	// ErrIncompatible means that the replica speaks another version of the peer protocol.
	ErrIncompatible = errors.New("cluster: the replica speaks another version of the peer protocol")
)

const (
	// openTimeout limits how long Open waits for a replica that is not connected.
	openTimeout = 2 * time.Second
	// deadAfter is how long nothing must have listened at a replica's address until callers take it
	// for dead.
	deadAfter = 500 * time.Millisecond
	// expectedFor is how long nothing may listen at the address of a replica that hands over.
	expectedFor = 10 * time.Second
	// goneAfter is how long a replica that no book lists may be unreachable before it is gone.
	goneAfter = 10 * time.Second
	// rememberedGone is how many replicas that are gone a Node remembers.
	rememberedGone = 1024
)

// Observer hears what happens between replicas, for metrics. Its methods must not wait.
type Observer interface {
	// PeerLost reports the end of a connection that this replica dialled: "closed", "silent" or
	// "goodbye".
	PeerLost(why string)
	// RoundTrip reports how long a ping took.
	RoundTrip(took time.Duration)
	// LookupFailed reports a failed lookup in the Book.
	LookupFailed()
	// Returned reports that a replica can be reached again, or for the first time.
	Returned(id string)
	// Gone reports that a replica no longer exists. The Node's lock is held.
	Gone(id string)
}

// Sender says where a note comes from.
type Sender struct {
	ID   string // of the replica
	Conn uint64 // number of the connection: a later one has a greater number
}

// Options are the parts of a Node.
type Options struct {
	ID   string // of this replica; see NewID
	Name string // of the cluster
	// Advertise is the address at which others dial this replica. It is empty if unknown.
	Advertise string
	Keys      *Keys
	Book      Book
	// Fixed says that the addresses in Book never change. If all of them are this replica's own,
	// the configuration is wrong.
	Fixed bool
	// Serve serves a stream that another replica has opened, in its own goroutine.
	Serve func(s *Stream)
	// Noted receives a note. It must not wait, and must not keep about. Notes of one connection
	// come in order.
	Noted func(from Sender, kind byte, about []byte)
	// Expected reports whether a replica has said that another process continues under its id.
	// Until then nothing may listen at its address. Nil means that none has. It must not wait: the
	// Node's lock is held.
	Expected func(id string) bool
	Observer Observer
	Log      *slog.Logger
	// Clock shows this replica's time in microseconds, for others. It must be monotonic. Nil tells
	// them nothing.
	Clock func() int64
	// Dial opens a connection to a peer port. Nil means a TCP connection.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// Node is this replica's place in the cluster. It keeps a connection to every other replica and
// serves theirs. It is safe for concurrent use.
type Node struct {
	opts   Options
	who    hello
	keys   atomic.Pointer[Keys]
	log    *limit.Logger
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	lookup chan struct{} // 1: asks the book now
	made   time.Time
	tasks  sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	peers    map[string]*peer
	gone     map[string]bool // ids of replicas that are gone; true: may come back
	goneList []string        // oldest first
	changed  chan struct{}   // closed and replaced with every change of a peer
	lookups  int             // answers of the book so far
	inbound  map[*inbound]struct{}
	accepted uint64 // connections in inbound so far
	alone    bool   // it was logged that there is no other replica
	closed   bool
}

// New returns a Node that does nothing before Start.
func New(opts Options) *Node {
	n := &Node{
		opts: opts, log: limit.NewLogger(opts.Log), lookup: make(chan struct{}, 1), peers: make(map[string]*peer),
		made: time.Now(), gone: make(map[string]bool), changed: make(chan struct{}), inbound: make(map[*inbound]struct{}),
	}
	n.who = hello{ID: opts.ID, Name: opts.Name, Process: NewID(), Advertise: opts.Advertise}
	n.keys.Store(opts.Keys)
	if n.opts.Dial == nil {
		n.opts.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		}
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n
}

// ID returns the id of this replica.
func (n *Node) ID() string { return n.opts.ID }

// SetKeys replaces the keys for connections that are made from now on.
func (n *Node) SetKeys(k *Keys) { n.keys.Store(k) }

// Start looks for other replicas, and serves those that dial ln.
func (n *Node) Start(ln net.Listener) {
	n.task(func() { n.watchBook() })
	n.task(func() { n.tick() })
	n.task(func() { n.serve(ln) })
	context.AfterFunc(n.ctx, func() { ln.Close() })
}

// task runs fn in a goroutine that Close waits for. fn ends with n.ctx.
func (n *Node) task(fn func()) {
	n.tasks.Go(fn)
}

// watchBook keeps a peer for every address in the book.
func (n *Node) watchBook() {
	self := Entry{ID: n.opts.ID, Addr: n.opts.Advertise}
	n.opts.Book.Watch(n.ctx, self, n.lookup, func(entries []Entry, err error) {
		if err != nil {
			n.opts.Observer.LookupFailed()
			n.log.Log(slog.LevelWarn, "lookup", "other replicas could not be looked up: the known ones stay", "error", err)
		}
		n.update(entries, err)
	})
}

// update takes an answer of the book.
func (n *Node) update(entries []Entry, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lookups++
	if err == nil || len(entries) > 0 {
		now := time.Now()
		for _, p := range n.peers {
			p.listed = false
		}
		for _, e := range entries {
			if e.ID != n.opts.ID {
				n.learnLocked(e, now)
			}
		}
	}
	n.changedLocked()
}

// learnLocked adds or refreshes the peer at an address.
func (n *Node) learnLocked(e Entry, now time.Time) {
	if n.closed || e.Addr == "" || e.Addr == n.opts.Advertise {
		return
	}
	p := n.peers[e.Addr]
	if p == nil {
		p = &peer{n: n, addr: e.Addr, since: now, wake: make(chan struct{}, 1)}
		n.peers[e.Addr] = p
		n.task(p.run)
	}
	p.listed, p.listedAt = true, now
	if e.ID != "" && p.id != e.ID && p.state != peerUp {
		n.forgetLocked(p) // another replica is there now
		p.id, p.forgotten = e.ID, false
		if p.state == peerGone {
			p.moveLocked(peerUnknown)
		}
		p.retry()
	}
}

// changedLocked wakes those who wait for a replica.
func (n *Node) changedLocked() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// forgetLocked notes that a replica is not at a peer's address any more. It is gone, unless it has
// another one.
func (n *Node) forgetLocked(p *peer) {
	id := p.id
	if _, ok := n.gone[id]; id == "" || ok {
		return
	}
	for _, other := range n.peers {
		if other != p && other.id == id && other.state != peerGone {
			return
		}
	}
	n.opts.Observer.Gone(id)
	n.gone[id] = p.forgotten
	n.goneList = append(n.goneList, id)
	if len(n.goneList) > rememberedGone {
		delete(n.gone, n.goneList[0])
		n.goneList = n.goneList[1:]
	}
}

// MayReturn reports whether a replica that is gone may come back, because it was only silent for
// long.
func (n *Node) MayReturn(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.findLocked(id)
	return n.gone[id] || p != nil && p.forgotten
}

// Knows reports whether a replica with this id is or recently was part of the cluster.
func (n *Node) Knows(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.findLocked(id) != nil
}

// findLocked returns the peer with an id. If the replica has several addresses, it is the one that
// has been connected longest, so that notes to it come in order, over one connection.
func (n *Node) findLocked(id string) *peer {
	var found *peer
	for _, p := range n.peers {
		if p.id == id && (found == nil || p.precedes(found)) {
			found = p
		}
	}
	return found
}

// precedes reports whether to use p rather than another peer with the same id.
func (p *peer) precedes(other *peer) bool {
	order := cmp.Or(cmp.Compare(p.state.use(), other.state.use()), other.since.Compare(p.since), strings.Compare(other.addr, p.addr))
	return order > 0
}

// use orders the states by how useful a peer is.
func (s peerState) use() int {
	switch s { //nolint:exhaustive // the others may be up soon
	case peerUp:
		return 2
	case peerGone:
		return 0
	}
	return 1
}

// Note tells a replica something, if it is connected.
func (n *Node) Note(id string, kind byte, about []byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.findLocked(id)
	if p == nil || p.state != peerUp || len(about) > MaxAbout {
		return false
	}
	p.conn.note(kind, about)
	return true
}

// ClockOf returns the current time on a connected replica's Clock. The error is half of a round
// trip at most, even if that replica is stopped or its messages are late. ok is false if the time
// is unknown.
func (n *Node) ClockOf(id string) (now int64, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.findLocked(id)
	if p == nil || p.state != peerUp || p.clock.at.IsZero() {
		return 0, false
	}
	return p.clock.ahead + time.Since(n.made).Microseconds(), true
}

// NoteAll tells all replicas that are connected something.
func (n *Node) NoteAll(kind byte, about []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.peers {
		if p.state == peerUp {
			p.conn.note(kind, about)
		}
	}
}

// PeerStatus describes another replica.
type PeerStatus struct {
	ID        string // "" if it never answered
	Addr      string
	State     string
	RoundTrip time.Duration // of the latest ping
	Since     time.Time     // when State began
	Streams   int           // to it
	Problem   string        // why it could not be connected the last time
}

// Peers describes the other replicas.
func (n *Node) Peers() []PeerStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []PeerStatus
	for _, p := range n.peers {
		if p.self {
			continue
		}
		st := PeerStatus{ID: p.id, Addr: p.addr, State: p.state.String(), RoundTrip: p.roundTrip, Since: p.since, Problem: p.problem}
		if p.state == peerUp {
			st.Streams = p.conn.count()
			st.Problem = ""
		}
		list = append(list, st)
	}
	return list
}

// Settled reports whether every address of the first look-up was tried. Until then a client of
// another replica might not find its session.
func (n *Node) Settled() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lookups == 0 {
		return false
	}
	for _, p := range n.peers {
		if p.attempts == 0 {
			return false
		}
	}
	return true
}

// Close tells the others that this replica stops, and ends all connections.
func (n *Node) Close() { n.end((*conn).sendBye) }

// Suspend ends all connections without telling the others, because another process continues under
// this id.
func (n *Node) Suspend() { n.end(func(*conn) {}) }

func (n *Node) end(last func(*conn)) {
	n.mu.Lock()
	n.closed = true
	conns := n.connsLocked()
	n.mu.Unlock()
	for _, c := range conns {
		last(c)
	}
	n.cancel()
	for _, c := range conns {
		c.shutdown()
	}
	n.tasks.Wait()
}

func (n *Node) connsLocked() []*conn {
	var conns []*conn
	for _, p := range n.peers {
		if p.conn != nil {
			conns = append(conns, p.conn)
		}
	}
	for in := range n.inbound {
		conns = append(conns, in.conn)
	}
	return conns
}

// tick pings all connections and closes those that are silent.
func (n *Node) tick() {
	t := time.NewTicker(tickInterval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-n.ctx.Done():
			return
		}
		n.mu.Lock()
		conns := n.connsLocked()
		now := time.Now()
		for _, p := range n.peers {
			p.expireLocked(now)
		}
		n.noteAloneLocked()
		n.mu.Unlock()
		for _, c := range conns {
			if !c.tick() {
				c.close(errSilent)
			}
		}
	}
}

var errSilent = errors.New("cluster: the other replica is silent")
