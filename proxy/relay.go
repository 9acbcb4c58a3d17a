package proxy

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
	// relayQueueBytes is how much may wait on one side of a relay before the other is not read.
	relayQueueBytes = 64 << 10
	// relayLinger limits how long the ends of a relay wait for each other's last bytes.
	relayLinger = 5 * time.Second
)

// relay passes bytes between a client's WebSocket and the replica that serves the client. It looks
// at none of them. Flow control is that of the two connections: a side that takes nothing stops the
// other.
type relay struct {
	owner  relayOwner
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

// relayOwner knows the relays that have been started.
type relayOwner interface {
	RelayStarted(p *relay)
	RelayEnded(p *relay)
	// RelayPanicked reports a panic, which ends the relay.
	RelayPanicked(v any)
}

// newRelay returns a relay for a client's WebSocket, whose handler is clientHandler from now on.
func newRelay(owner relayOwner, client netpoll.Stream) *relay {
	return &relay{owner: owner, client: client}
}

// relayConn relays a client's WebSocket, from which initial was read.
func relayConn(owner relayOwner, conn net.Conn, initial []byte, st *cluster.Stream) {
	p := &relay{owner: owner}
	p.client = netpoll.New(conn, relayClient{p})
	p.start(st)
	p.client.Start(initial)
}

// clientHandler returns the handler of the client's WebSocket.
func (p *relay) clientHandler() netpoll.Handler { return relayClient{p} }

// end ends the relay. What the client sends until it has ended its side is still passed on.
func (p *relay) end() { p.client.Shutdown(relayLinger) }

// abort closes the client's WebSocket, of a relay that was not started.
func (p *relay) abort() { p.client.Close() }

// batches are buffers for what one batch brings from an owner.
var batches = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// start begins to relay. The client's stream must have been paused, or its handler's calls must be
// excluded.
func (p *relay) start(st *cluster.Stream) {
	p.stream = st
	p.peer = netpoll.New(st, relayPeer{p})
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
		relayClient{p}.Closed(gone)
		return
	}
	p.client.Resume()
}

// before calls fn if the relay has not been started, and reports whether that is so.
func (p *relay) before(fn func()) bool {
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
func (p *relay) ended() {
	if p.ends.Add(1) == 2 {
		p.owner.RelayEnded(p)
	}
}

// relayClient is a relay as the Handler of the client's WebSocket.
type relayClient struct{ p *relay }

// Read implements netpoll.Handler.
func (h relayClient) Read(b []byte) {
	p := h.p
	if p.before(func() { p.early = append(p.early, b...) }) {
		return
	}
	if p.stream.Append(b) > relayQueueBytes {
		p.client.Pause()
		if p.peer.Queued() == 0 { // drained meanwhile
			p.client.Resume()
		}
	}
}

// Flush implements netpoll.Handler.
func (h relayClient) Flush() {
	if h.p.started.Load() {
		h.p.stream.Flush()
	}
}

// Drained implements netpoll.Handler.
func (h relayClient) Drained() {
	if h.p.started.Load() {
		h.p.peer.Resume()
	}
}

// Closed implements netpoll.Handler.
func (h relayClient) Closed(err error) {
	if h.p.before(func() { h.p.gone = err }) {
		return
	}
	if errors.Is(err, io.EOF) {
		h.p.peer.Shutdown(relayLinger)
	} else {
		h.p.peer.Close()
	}
	h.p.ended()
}

// Panicked implements netpoll.PanicHandler.
func (h relayClient) Panicked(v any) { h.p.panicked(v) }

// relayPeer is a relay as the Handler of the owner's stream.
type relayPeer struct{ p *relay }

// Read implements netpoll.Handler.
func (h relayPeer) Read(b []byte) {
	p := h.p
	if p.batch == nil {
		p.batch = batches.Get().(*[]byte)
	}
	*p.batch = append(*p.batch, b...)
}

// Flush implements netpoll.Handler.
func (h relayPeer) Flush() {
	p := h.p
	if p.batch == nil {
		return
	}
	queued := p.client.Write(*p.batch)
	if cap(*p.batch) <= relayQueueBytes {
		*p.batch = (*p.batch)[:0]
		batches.Put(p.batch)
	}
	p.batch = nil
	if queued > relayQueueBytes {
		p.peer.Pause()
		if p.client.Queued() == 0 { // drained meanwhile
			p.peer.Resume()
		}
	}
}

// Drained implements netpoll.Handler.
func (h relayPeer) Drained() { h.p.client.Resume() }

// Closed implements netpoll.Handler. The client sees the end that the owner wrote, or a broken
// connection.
func (h relayPeer) Closed(error) {
	h.p.client.Shutdown(relayLinger)
	h.p.ended()
}

// Panicked implements netpoll.PanicHandler.
func (h relayPeer) Panicked(v any) { h.p.panicked(v) }

func (p *relay) panicked(v any) {
	p.owner.RelayPanicked(v)
	p.client.Close()
	p.peer.Close()
}
