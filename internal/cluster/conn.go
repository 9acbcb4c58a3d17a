package cluster

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/internal/netpoll"
)

const (
	// congestedBytes is how much may wait for the network before streams hold back their data.
	congestedBytes = 512 << 10
	// handshakeTimeout limits everything up to the two hellos.
	handshakeTimeout = 5 * time.Second
	// tickInterval is the time between two pings.
	tickInterval = time.Second
	// silentTicks is after how many ticks without a byte from the other side a connection is dead.
	// Ticks count, not time: a process that was stopped itself must not consider the others dead.
	silentTicks = 5
	// maxStreams limits the streams of one connection.
	maxStreams = 1 << 20
)

// connEvents are what a conn tells its owner. They are called from its reader and must not wait.
type connEvents interface {
	// opened reports a stream that the other side has opened.
	opened(s *Stream)
	// noted reports a note of the other side. The payload is valid during the call only.
	noted(kind byte, payload []byte)
	// answered reports how long a ping took, and the time on the other side's clock, or 0 if it did
	// not send that.
	answered(took time.Duration, clock int64)
	// ended is called once. Streams have ended, or are about to.
	ended(err error)
}

// conn is one connection between two replicas. The side that dialled opens streams; the other
// serves them. It implements netpoll.Handler and is safe for concurrent use.
type conn struct {
	events connEvents
	socket *socket
	tls    *tls.Conn
	dialed bool         // this side dialled
	peer   hello        // who the other side is
	clock  func() int64 // shows microseconds; nil tells the other side nothing. Set before start.
	opened time.Time    // pings are numbered by the time since then

	// Owned by the reader.
	plain   []byte // decrypted bytes of one record
	head    [headerBytes]byte
	headN   int // bytes in head
	h       header
	left    int     // bytes of the current frame still to come, if headN is headerBytes
	to      *Stream // of the current data frame; nil if the stream has ended
	control []byte  // payload of the current frame, unless it is data
	toFlush []*Stream

	heard atomic.Bool // something arrived since the last tick

	mu        sync.Mutex // guards the fields below; comes after a Stream's mu
	out       []byte     // frames to encrypt
	streams   map[uint32]*Stream
	next      uint32    // number of the next stream
	waiting   []*Stream // have data and wait for the network
	congested bool
	silent    int   // ticks in a row without anything
	bye       bool  // the other side has sent a bye frame
	err       error // why it ended
}

// connect makes a conn of an open network connection: TLS, then the hellos. It does not read frames
// before start. It closes nc if it fails.
func connect(ctx context.Context, nc net.Conn, keys *Keys, own hello, dialed bool) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	c := &conn{socket: &socket{Conn: nc}, dialed: dialed, streams: make(map[uint32]*Stream), plain: make([]byte, 16<<10), opened: time.Now()}
	if dialed {
		c.tls = tls.Client(c.socket, keys.tlsConfig())
	} else {
		c.tls = tls.Server(c.socket, keys.tlsConfig())
	}
	err := c.greet(ctx, own)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

// greet makes the TLS handshake and exchanges the hellos. The side that dialled speaks first.
func (c *conn) greet(ctx context.Context, own hello) error {
	if err := c.tls.HandshakeContext(ctx); err != nil {
		return err
	}
	text := own.encode()
	say := func() error {
		_, err := c.tls.Write(append(appendHeader(nil, frameHello, 0, len(text)), text...))
		return err
	}
	if !c.dialed {
		return errors.Join(c.readHello(), say())
	}
	if err := say(); err != nil {
		return err
	}
	return c.readHello()
}

func (c *conn) readHello() error {
	var b [headerBytes]byte
	if _, err := io.ReadFull(c.tls, b[:]); err != nil {
		return err
	}
	h, err := parseHeader(b[:])
	if err != nil {
		return err
	}
	if h.kind != frameHello || h.length > maxHello {
		return fmt.Errorf("%w: no hello", errProtocol)
	}
	text := make([]byte, h.length)
	if _, err := io.ReadFull(c.tls, text); err != nil {
		return err
	}
	c.peer, err = parseHello(text)
	return err
}

// start begins to read frames.
func (c *conn) start(events connEvents) {
	c.events = events
	stream := netpoll.New(c.socket.Conn, c)
	c.socket.stream = stream
	c.Read(nil) // what came with the hello
	c.Flush()
	stream.Start(nil)
}

// open begins a stream with its first bytes, and with its end if nothing follows. It returns nil if
// the conn has ended.
func (c *conn) open(kind byte, about, first []byte, end bool) *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || len(c.streams) >= maxStreams {
		return nil
	}
	c.next++
	s := newStream(c, c.next)
	c.streams[s.number] = s
	c.out = appendHeader(c.out, frameOpen, s.number, 1+len(about))
	c.out = append(append(c.out, kind), about...)
	if len(first) > 0 {
		c.out = append(appendHeader(c.out, frameData, s.number, len(first)), first...)
		s.credit -= len(first)
		s.sent = int64(len(first))
	}
	if end {
		c.out = appendHeader(c.out, frameFin, s.number, 0)
		s.outEnd = outputEnded
	}
	c.flushLocked()
	return s
}

// note tells the other side something.
func (c *conn) note(kind byte, about []byte) {
	c.send(frameNote, 0, append([]byte{kind}, about...))
}

// send sends a frame that is not data.
func (c *conn) send(kind frameType, stream uint32, payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = append(appendHeader(c.out, kind, stream, len(payload)), payload...)
	c.flushLocked()
}

// data sends as much of a stream's data as the network takes, and returns the number of bytes. If
// some remains, it later calls the stream's resume. With more, the caller will flush.
func (c *conn) data(s *Stream, p []byte, more bool) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.congested && c.err == nil {
		c.waiting = append(c.waiting, s)
		return 0
	}
	c.out = append(appendHeader(c.out, frameData, s.number, len(p)), p...)
	if !more {
		c.flushLocked()
	}
	return len(p)
}

func (c *conn) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushLocked()
}

func (c *conn) flushLocked() {
	if len(c.out) == 0 {
		return
	}
	if c.err == nil {
		_, _ = c.tls.Write(c.out) // fails only after an alert, which ends the reader too
		c.congested = c.socket.flush() > congestedBytes
	}
	c.out = c.out[:0]
	if cap(c.out) > keptBytes {
		c.out = nil
	}
}

// Flush implements netpoll.Handler.
func (c *conn) Flush() {
	for i, s := range c.toFlush {
		c.toFlush[i] = nil
		s.flushInput()
	}
	c.toFlush = c.toFlush[:0]
}

// Drained implements netpoll.Handler.
func (c *conn) Drained() {
	c.mu.Lock()
	c.congested = false
	waiting := c.waiting
	c.waiting = nil
	c.mu.Unlock()
	// One that does not get all of its data through waits again, behind the others.
	for _, s := range waiting {
		s.resumeOutput()
	}
}

// Closed implements netpoll.Handler.
func (c *conn) Closed(err error) {
	c.end(err)
}

// Panicked implements netpoll.PanicHandler. Handlers of streams recover their own panics.
func (c *conn) Panicked(v any) { c.close(fmt.Errorf("cluster: panic: %v", v)) }

// close ends the conn immediately.
func (c *conn) close(err error) {
	c.end(err)
	c.socket.stream.Close()
}

// end ends the streams; only the first call does anything.
func (c *conn) end(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	streams := c.streams
	c.streams, c.waiting = nil, nil
	c.mu.Unlock()
	go func() { // ends when all streams know
		for _, s := range streams {
			s.peerEnded(netpoll.ErrPeerLost)
		}
		c.events.ended(err)
	}()
}

// remove forgets a stream that has ended on both sides.
func (c *conn) remove(number uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.streams, number)
}

// tick is called every tickInterval. It pings if this side dialled, and returns false if the other
// side has been silent for too long.
func (c *conn) tick() (alive bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.heard.Swap(false) {
		c.silent = 0
	} else {
		c.silent++
	}
	if c.dialed {
		c.pingLocked()
	}
	return c.silent < silentTicks
}

// ping asks for a pong.
func (c *conn) ping() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pingLocked()
}

func (c *conn) pingLocked() {
	c.out = appendHeader(c.out, framePing, 0, 8)
	c.out = binary.BigEndian.AppendUint64(c.out, uint64(time.Since(c.opened)))
	c.flushLocked()
}

// pong answers a ping.
func (c *conn) pong(sent []byte) {
	p := append([]byte(nil), sent...)
	if c.clock != nil {
		p = binary.BigEndian.AppendUint64(p, uint64(c.clock()))
	}
	c.send(framePong, 0, p)
}

// ponged handles a pong.
func (c *conn) ponged(p []byte) error {
	if len(p) < 8 {
		return fmt.Errorf("%w: pong", errProtocol)
	}
	took := time.Since(c.opened) - time.Duration(binary.BigEndian.Uint64(p))
	var clock int64
	if len(p) >= 16 {
		clock = int64(binary.BigEndian.Uint64(p[8:]))
	}
	if took >= 0 {
		c.events.answered(took, clock)
	}
	return nil
}

// sendBye tells the other side that this one stops.
func (c *conn) sendBye() { c.send(frameBye, 0, nil) }

// peerStops reports whether the other side has announced that it stops.
func (c *conn) peerStops() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bye
}

// count returns how many streams there are.
func (c *conn) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.streams)
}

// shutdown ends the conn after what was sent.
func (c *conn) shutdown() {
	c.end(netpoll.ErrClosed)
	c.socket.stream.Shutdown(time.Second)
}
