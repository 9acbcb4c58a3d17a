package cluster

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/internal/netpoll"
	"github.com/holdfast/holdfast/internal/steady"
)

func TestMain(m *testing.M) {
	_ = netpoll.Setup(false) // pipes need no loop
	steady.VerifyTestMain(m)
}

const secretA, secretB = "the secret of cluster A, of 32 bytes", "the secret of cluster B, of 32 bytes"

func keys(t testing.TB, secrets ...string) *Keys {
	t.Helper()
	k, err := NewKeys(secrets)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// network is a set of peer ports that are reached through pipes.
type network struct {
	mu    sync.Mutex
	ports map[string]*port
	clock func() int64 // of replicas that are started from now on
}

type port struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once

	mu     sync.Mutex
	links  []*link // connections to it
	silent bool    // no bytes arrive, in either direction
}

// link is a pipe whose bytes can be withheld.
type link struct {
	net.Conn
	port *port
}

func newNetwork() *network { return &network{ports: make(map[string]*port)} }

var errRefused = &net.OpError{Op: "dial", Err: errSyscallRefused}

func (n *network) listen(addr string) *port {
	p := &port{conns: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	n.ports[addr] = p
	n.mu.Unlock()
	return p
}

func (n *network) port(addr string) *port {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ports[addr]
}

func (n *network) dial(ctx context.Context, addr string) (net.Conn, error) {
	p := n.port(addr)
	if p == nil {
		return nil, errRefused
	}
	near, far := net.Pipe()
	select {
	case p.conns <- &link{far, p}:
	case <-p.closed:
		return nil, errRefused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	l := &link{near, p}
	p.mu.Lock()
	p.links = append(p.links, l)
	p.mu.Unlock()
	return l, nil
}

func (p *port) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *port) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *port) Addr() net.Addr { return peerAddr("pipe") }

// knock opens a connection to a port from an address, like a peer without the secret.
func (n *network) knock(addr, from string) net.Conn {
	near, far := net.Pipe()
	n.port(addr).conns <- addressed{far, peerAddr(from)}
	return near
}

// addressed is a connection from an address.
type addressed struct {
	net.Conn
	from net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.from }

// silence makes the port's connections, and new ones, lose all bytes.
func (p *port) silence(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = on
}

func (p *port) isSilent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.silent
}

func (l *link) Write(b []byte) (int, error) {
	if l.port.isSilent() {
		return len(b), nil
	}
	return l.Conn.Write(b)
}

// cut ends all connections to the port.
func (p *port) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.links {
		_ = l.Close()
	}
	p.links = nil
}

// told is an Observer that remembers.
type told struct {
	mu       sync.Mutex
	losses   []string
	returned []string
	gone     []string
	failed   int
}

func (o *told) PeerLost(why string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.losses = append(o.losses, why)
}

func (o *told) Gone(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gone = append(o.gone, id)
}

func (o *told) RoundTrip(time.Duration) {}

func (o *told) LookupFailed() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failed++
}

func (o *told) Returned(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.returned = append(o.returned, id)
}

// fixedBook is a Book whose entries a test changes.
type fixedBook struct {
	mu      sync.Mutex
	entries []Entry
	err     error
}

func (b *fixedBook) set(err error, entries ...Entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries, b.err = entries, err
}

func (b *fixedBook) Watch(ctx context.Context, _ Entry, now <-chan struct{}, found func([]Entry, error)) {
	poll(ctx, now, func(context.Context) error {
		b.mu.Lock()
		entries, err := b.entries, b.err
		b.mu.Unlock()
		found(entries, err)
		return err
	})
}

// registry is a Book in which replicas enter themselves, as in Redis.
type registry struct {
	mu     sync.Mutex
	fields map[string]string // address by id
	down   bool
	hangs  chan struct{} // if it is not nil, a question waits until it is closed
}

func (b *registry) Watch(ctx context.Context, self Entry, now <-chan struct{}, found func([]Entry, error)) {
	poll(ctx, now, func(ctx context.Context) error {
		entries, err := b.ask(ctx, self)
		found(entries, err)
		return err
	})
}

func (b *registry) ask(ctx context.Context, self Entry) (entries []Entry, err error) {
	b.mu.Lock()
	hangs := b.hangs
	b.mu.Unlock()
	if hangs != nil {
		select {
		case <-hangs:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down {
		return nil, errors.New("refused")
	}
	b.fields[self.ID] = self.Addr
	for id, addr := range b.fields {
		entries = append(entries, Entry{id, addr})
	}
	return entries, nil
}

// change makes the registry lose all entries, and changes its state.
func (b *registry) change(down bool, hangs chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fields, b.down, b.hangs = make(map[string]string), down, hangs
}

// replica is a Node in a network.
type replica struct {
	*Node
	told *told
	book *fixedBook
	port *port
}

// echo answers each stream with what it was opened with, and then returns what it reads.
func echo(s *Stream) {
	defer func() { _ = s.Close() }()
	if _, err := s.Write(s.About()); err != nil {
		return
	}
	_, _ = io.Copy(s, s)
}

// stop closes replicas, and waits until nothing of them remains.
func stop(list ...*replica) {
	for _, r := range list {
		r.Close()
	}
	time.Sleep(2 * time.Second)
	synctest.Wait()
}

func (n *network) start(t testing.TB, id, addr, secret string, peers ...string) *replica {
	t.Helper()
	book := new(fixedBook)
	for _, p := range peers {
		book.entries = append(book.entries, Entry{Addr: p})
	}
	r := n.startWith(t, id, addr, secret, book)
	r.book = book
	return r
}

// startVersion is start for a replica that speaks another version of the protocol.
func (n *network) startVersion(t testing.TB, id, addr, version string) *replica {
	t.Helper()
	k := keys(t, secretA)
	k.protocol = version
	return n.startKeys(t, id, addr, k, new(fixedBook))
}

// startWith is start with another Book.
func (n *network) startWith(t testing.TB, id, addr, secret string, book Book) *replica {
	t.Helper()
	return n.startKeys(t, id, addr, keys(t, secret), book)
}

func (n *network) startKeys(t testing.TB, id, addr string, k *Keys, book Book) *replica {
	t.Helper()
	r := &replica{told: new(told), port: n.listen(addr)}
	r.Node = New(Options{
		ID: id, Name: "test", Advertise: addr, Keys: k, Book: book, Serve: echo, Noted: func(Sender, byte, []byte) {},
		Observer: r.told, Log: slog.New(slog.DiscardHandler), Dial: n.dial, Clock: n.clock,
	})
	r.Start(r.port)
	return r
}

func (r *replica) state(id string) string {
	for _, p := range r.Peers() {
		if p.ID == id {
			return p.State
		}
	}
	return ""
}

// ask opens a stream to a replica, and returns how long that took.
func (r *replica) ask(id string) (took time.Duration, err error) {
	begin := time.Now()
	s, err := r.Open(context.Background(), id, 'e', []byte("hello"))
	took = time.Since(begin)
	if err != nil {
		return took, err
	}
	defer func() { _ = s.Close() }()
	var b [5]byte
	if _, err := io.ReadFull(s, b[:]); err != nil || string(b[:]) != "hello" {
		return took, errors.New("no echo: " + strings.TrimSpace(string(b[:])))
	}
	return took, nil
}
