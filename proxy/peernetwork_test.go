package proxy

import (
	"context"
	"net"
	"sync"
	"syscall"
)

// peerNetwork connects the peer ports of replicas by pipes. A hole holds the bytes of one direction
// back, as a network does that repeats them later.
type peerNetwork struct {
	mu      sync.Mutex
	ports   map[int]*peerListener // by place
	links   map[*peerPipe]struct{}
	jitter  func() *jitter
	blocked map[[2]int]chan struct{} // from, to: closed when the hole is healed
}

// peerListener is the net.Listener of a peer port.
type peerListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// peerPipe is one connection between two replicas.
type peerPipe struct {
	from, to int
	ends     []net.Conn
	done     chan struct{} // closed by cut
	once     sync.Once
}

func newPeerNetwork() *peerNetwork {
	return &peerNetwork{ports: make(map[int]*peerListener), links: make(map[*peerPipe]struct{}), jitter: func() *jitter { return nil }, blocked: make(map[[2]int]chan struct{})}
}

func (n *peerNetwork) listen(place int) *peerListener {
	l := &peerListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports[place] = l
	return l
}

func (l *peerListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *peerListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (*peerListener) Addr() net.Addr { return &net.TCPAddr{} }

// dialler returns what dials other replicas from a place.
func (n *peerNetwork) dialler(from int) func(ctx context.Context, addr string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		to := 0
		for peerAddress(to) != addr {
			to++
		}
		for _, way := range [][2]int{{from, to}, {to, from}} {
			if barrier := n.barrier(way); barrier != nil {
				select {
				case <-barrier:
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
		}
		n.mu.Lock()
		l := n.ports[to]
		n.mu.Unlock()
		refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		if l == nil {
			return nil, refused
		}
		near, nearEnd := net.Pipe()
		farEnd, far := net.Pipe()
		select {
		case l.conns <- far:
		case <-l.closed:
			return nil, refused
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		p := &peerPipe{from: from, to: to, ends: []net.Conn{nearEnd, farEnd}, done: make(chan struct{})}
		n.mu.Lock()
		n.links[p] = struct{}{}
		n.mu.Unlock()
		go n.pump(p, [2]int{from, to}, nearEnd, farEnd) // end with the connection
		go n.pump(p, [2]int{to, from}, farEnd, nearEnd)
		return near, nil
	}
}

// barrier returns a channel that is closed when the hole from one place to another is healed, or
// nil if there is none.
func (n *peerNetwork) barrier(way [2]int) chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.blocked[way]
}

// pump copies one direction of a connection.
func (n *peerNetwork) pump(p *peerPipe, way [2]int, from, to net.Conn) {
	buf, jitter := make([]byte, 32<<10), n.jitter()
	for {
		count, err := from.Read(buf)
		jitter.sleep()
		if barrier := n.barrier(way); barrier != nil { // it holds back the end, too
			select {
			case <-barrier:
			case <-p.done:
			}
		}
		if count > 0 {
			if _, werr := to.Write(buf[:count]); werr != nil {
				err = werr
			}
		}
		if err != nil {
			to.Close()
			from.Close()
			n.mu.Lock()
			delete(n.links, p)
			n.mu.Unlock()
			return
		}
	}
}

func (p *peerPipe) cut() {
	p.once.Do(func() { close(p.done) })
	for _, c := range p.ends {
		c.Close()
	}
}

// cut ends the connections between two places, or all of one if both are the same.
func (n *peerNetwork) cut(a, b int) {
	n.mu.Lock()
	var hit []*peerPipe
	for p := range n.links {
		if a == b && (p.from == a || p.to == a) || p.from == a && p.to == b || p.from == b && p.to == a {
			hit = append(hit, p)
		}
	}
	n.mu.Unlock()
	for _, p := range hit {
		p.cut()
	}
}

// leave closes the port of a place, and ends its connections.
func (n *peerNetwork) leave(place int) {
	n.mu.Lock()
	l := n.ports[place]
	delete(n.ports, place)
	n.mu.Unlock()
	_ = l.Close()
	n.cut(place, place)
}

// hole holds back what goes from one place to another, or lets it pass.
func (n *peerNetwork) hole(from, to int, on bool) {
	if from == to {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	way := [2]int{from, to}
	switch barrier := n.blocked[way]; {
	case on && barrier == nil:
		n.blocked[way] = make(chan struct{})
	case !on && barrier != nil:
		close(barrier)
		delete(n.blocked, way)
	}
}

func (n *peerNetwork) holes() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.blocked)
}

func (n *peerNetwork) heal() {
	n.mu.Lock()
	ways := make([][2]int, 0, len(n.blocked))
	for way := range n.blocked {
		ways = append(ways, way)
	}
	n.mu.Unlock()
	for _, way := range ways {
		n.hole(way[0], way[1], false)
	}
}

func (n *peerNetwork) close() {
	n.mu.Lock()
	var all []*peerPipe
	for p := range n.links {
		all = append(all, p)
	}
	n.mu.Unlock()
	for _, p := range all {
		p.cut()
	}
}
