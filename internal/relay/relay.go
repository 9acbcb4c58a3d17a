package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/internal/netpoll"
)

const (
	// queueBytes is how much may wait on one side of a relay before the other is not read.
	queueBytes = 64 << 10
	// linger limits how long the ends of a relay wait for each other's last bytes.
	linger = 5 * time.Second
)

// Relay passes bytes between a client's WebSocket and the replica that serves the client. It looks
// at none of them. Flow control is that of the two connections: a side that takes nothing stops the
// other.
type Relay struct {
	owner  Owner
	client netpoll.Stream  // immutable
	stream *cluster.Stream // set by start, before anything is relayed
	peer   netpoll.Stream  // stream as a netpoll.Stream
	batch  *[]byte         // from the owner, to be written by Flush; owned by the stream's reader
	ends   atomic.Int32    // sides that have ended

	started atomic.Bool // start was called: early and gone do not change any more
	mu      sync.Mutex  // guards the fields below
	early   []byte      // the client sent it before start
	gone    error       // how the client's WebSocket ended before start
}

// Owner knows the relays that have been started.
type Owner interface {
	RelayStarted(p *Relay)
	RelayEnded(p *Relay)
	// RelayPanicked reports a panic, which ends the relay.
	RelayPanicked(v any)
}

// New returns a relay for a client's WebSocket, whose handler is ClientHandler from now on.
func New(owner Owner, client netpoll.Stream) *Relay {
	return &Relay{owner: owner, client: client}
}

// Serve relays a client's WebSocket, from which initial was read.
func Serve(owner Owner, conn net.Conn, initial []byte, st *cluster.Stream) {
	p := &Relay{owner: owner}
	p.client = netpoll.New(conn, clientSide{p})
	p.Start(st)
	p.client.Start(initial)
}

// ClientHandler returns the handler of the client's WebSocket.
func (p *Relay) ClientHandler() netpoll.Handler { return clientSide{p} }

// End ends the relay. What the client sends until it has ended its side is still passed on.
func (p *Relay) End() { p.client.Shutdown(linger) }

// Abort closes the client's WebSocket, of a relay that was not started.
func (p *Relay) Abort() { p.client.Close() }

// batches are buffers for what one batch brings from an owner.
var batches = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// Start begins to relay. The client's stream must have been paused, or its handler's calls must be
// excluded.
func (p *Relay) Start(st *cluster.Stream) {
	p.stream = st
	p.peer = netpoll.New(st, peerSide{p})
	p.owner.RelayStarted(p)
	p.peer.Start(nil)
	p.mu.Lock()
	if len(p.early) > 0 {
		st.Append(p.early)
		st.Flush()
		p.early = nil
	}
	p.started.Store(true)
	gone := p.gone
	p.mu.Unlock()
	if gone != nil {
		clientSide{p}.Closed(gone)
		return
	}
	p.client.Resume()
}

// before calls fn if the relay has not been started, and reports whether that is so.
func (p *Relay) before(fn func()) bool {
	if p.started.Load() {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.started.Load() {
		return false
	}
	fn()
	return true
}

// ended notes the end of one side.
func (p *Relay) ended() {
	if p.ends.Add(1) == 2 {
		p.owner.RelayEnded(p)
	}
}

// clientSide is a relay as the Handler of the client's WebSocket.
type clientSide struct{ p *Relay }

// Read implements netpoll.Handler.
func (h clientSide) Read(b []byte) {
	p := h.p
	if p.before(func() { p.early = append(p.early, b...) }) {
		return
	}
	if p.stream.Append(b) > queueBytes {
		p.client.Pause()
		if p.peer.Queued() == 0 { // drained meanwhile
			p.client.Resume()
		}
	}
}

// Flush implements netpoll.Handler.
func (h clientSide) Flush() {
	if h.p.started.Load() {
		h.p.stream.Flush()
	}
}

// Drained implements netpoll.Handler.
func (h clientSide) Drained() {
	if h.p.started.Load() {
		h.p.peer.Resume()
	}
}

// Closed implements netpoll.Handler.
func (h clientSide) Closed(err error) {
	if h.p.before(func() { h.p.gone = err }) {
		return
	}
	if errors.Is(err, io.EOF) {
		h.p.peer.Shutdown(linger)
	} else {
		h.p.peer.Close()
	}
	h.p.ended()
}

// Panicked implements netpoll.PanicHandler.
func (h clientSide) Panicked(v any) { h.p.panicked(v) }

// peerSide is a relay as the Handler of the owner's stream.
type peerSide struct{ p *Relay }

// Read implements netpoll.Handler.
func (h peerSide) Read(b []byte) {
	p := h.p
	if p.batch == nil {
		p.batch = batches.Get().(*[]byte)
	}
	*p.batch = append(*p.batch, b...)
}

// Flush implements netpoll.Handler.
func (h peerSide) Flush() {
	p := h.p
	if p.batch == nil {
		return
	}
	queued := p.client.Write(*p.batch)
	if cap(*p.batch) <= queueBytes {
		*p.batch = (*p.batch)[:0]
		batches.Put(p.batch)
	}
	p.batch = nil
	if queued > queueBytes {
		p.peer.Pause()
		if p.client.Queued() == 0 { // drained meanwhile
			p.peer.Resume()
		}
	}
}

// Drained implements netpoll.Handler.
func (h peerSide) Drained() { h.p.client.Resume() }

// Closed implements netpoll.Handler. The client sees the end that the owner wrote, or a broken
// connection.
func (h peerSide) Closed(error) {
	h.p.client.Shutdown(linger)
	h.p.ended()
}

// Panicked implements netpoll.PanicHandler.
func (h peerSide) Panicked(v any) { h.p.panicked(v) }

func (p *Relay) panicked(v any) {
	p.owner.RelayPanicked(v)
	p.client.Close()
	p.peer.Close()
}
