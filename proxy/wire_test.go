package proxy

import (
	"bufio"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gobwas/ws"
)

// wire is the model's end of a WebSocket to or from the Server.
type wire struct {
	poll         polled        // nil unless it began by polling
	to           *modelReplica // of a page's connection
	opened       time.Time     // likewise
	hasStalled   bool          // likewise
	number       int           // of a page's connections, from 1
	client       bool          // it masks its frames and answers pings
	out          chan []byte
	done         chan struct{} // closed by close
	once         sync.Once
	beat         int // counts steps, to pace a link's heartbeat
	jitter       *jitter
	ignoresPings atomic.Bool  // it no longer answers pings, because its page left it
	left         atomic.Int64 // bytes to read before the connection is cut; 0 is no limit

	mu      sync.Mutex
	conn    net.Conn      // nil while it polls
	barrier chan struct{} // blocks reading until it is closed; nil never blocks
}

// jitter delays what is sent and read. Nil delays nothing.
type jitter struct {
	mu     sync.Mutex // guards random
	random *rand.Rand
	limit  time.Duration
}

// newJitter returns a jitter of the model's network.
func (m *model) newJitter() *jitter {
	if m.latency == 0 {
		return nil
	}
	return &jitter{random: rand.New(rand.NewPCG(m.jitters.Add(1), 5)), limit: m.latency}
}

func (j *jitter) sleep() {
	if j == nil {
		return
	}
	j.mu.Lock()
	d := time.Duration(j.random.Int64N(int64(j.limit)))
	j.mu.Unlock()
	time.Sleep(d)
}

// polled is the transport of a wire that began by polling.
type polled interface {
	write(frames []frame)
	// cut ends the requests in progress to a replica, or all if it is nil.
	cut(to *modelReplica)
}

type frame struct {
	op      ws.OpCode
	payload []byte
}

func text(s string) frame   { return frame{ws.OpText, []byte(s)} }
func binary(s string) frame { return frame{ws.OpBinary, []byte(s)} }

func (m *model) newWire(conn net.Conn, client bool) *wire {
	w := &wire{client: client, jitter: m.newJitter(), out: make(chan []byte, 4096), done: make(chan struct{})} // never full
	m.mu.Lock()
	m.wires = append(m.wires, w)
	m.mu.Unlock()
	w.setConn(conn)
	return w
}

// setConn lets a wire use a connection.
func (w *wire) setConn(conn net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn = conn
	if w.closed() {
		conn.Close()
		return
	}
	go w.writeLoop(conn) // returns after close
}

func (w *wire) writeLoop(conn net.Conn) {
	for {
		select {
		case b := <-w.out:
			w.jitter.sleep()
			if _, err := conn.Write(b); err != nil {
				w.close()
			}
		case <-w.done:
			return
		}
	}
}

func (w *wire) compile(f frame) []byte {
	wf := ws.NewFrame(f.op, true, append([]byte(nil), f.payload...))
	if w.client {
		wf = ws.MaskFrameInPlace(wf)
	}
	b, err := ws.CompileFrame(wf)
	if err != nil {
		panic(err) // a Buffer never fails
	}
	return b
}

// write queues frames. After close it does nothing.
func (w *wire) write(frames ...frame) {
	if w.poll != nil {
		w.poll.write(frames)
		return
	}
	for _, f := range frames {
		w.queue(w.compile(f))
	}
}

// writeTogether queues frames for a single write.
func (w *wire) writeTogether(frames ...frame) {
	if w.poll != nil {
		w.poll.write(frames)
		return
	}
	w.queue(w.compileAll(frames))
}

func (w *wire) compileAll(frames []frame) (all []byte) {
	for _, f := range frames {
		all = append(all, w.compile(f)...)
	}
	return all
}

func (w *wire) queue(b []byte) {
	select {
	case w.out <- b:
	case <-w.done:
	}
}

func (w *wire) close() {
	w.once.Do(func() {
		close(w.done)
		w.mu.Lock()
		conn := w.conn
		w.mu.Unlock()
		if conn != nil {
			conn.Close()
		}
		if w.poll != nil {
			w.poll.cut(nil)
		}
	})
}

// cutFrom cuts the connection, or the requests in progress, if they lead to a replica.
func (w *wire) cutFrom(r *modelReplica) {
	switch {
	case w.poll != nil:
		w.poll.cut(r)
	case w.to == r:
		w.close()
	}
}

func (w *wire) closed() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// stall stops or resumes reading.
func (w *wire) stall(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case on && w.barrier == nil:
		w.barrier = make(chan struct{})
	case !on && w.barrier != nil:
		close(w.barrier)
		w.barrier = nil
	}
}

func (w *wire) stalled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.barrier != nil
}

// readLoop calls fn with each Engine.IO message until the connection ends, and read after the last
// one that was read together.
func (w *wire) readLoop(r io.Reader, fn func(message string, binary bool), read func()) {
	defer w.close()
	br := bufio.NewReader(r)
	for {
		if br.Buffered() == 0 {
			read()
		}
		f, err := ws.ReadFrame(br)
		if err != nil {
			read()
			return
		}
		w.jitter.sleep()
		if f.Header.Masked {
			ws.Cipher(f.Payload, f.Header.Mask, 0)
		}
		message := string(f.Payload)
		switch {
		case f.Header.OpCode == ws.OpClose:
			return
		case f.Header.OpCode == ws.OpBinary:
			fn(message, true)
		case f.Header.OpCode == ws.OpPing && w.client:
			if !w.ignoresPings.Load() {
				w.write(frame{ws.OpPong, f.Payload})
			}
		case f.Header.OpCode == ws.OpText:
			w.packet(message, fn)
		}
	}
}

// packet handles a text packet of Engine.IO.
func (w *wire) packet(packet string, fn func(message string, binary bool)) {
	switch {
	case packet == "2" && w.client:
		if !w.ignoresPings.Load() {
			w.write(text("3"))
		}
	case len(packet) > 1 && packet[0] == '4':
		fn(packet[1:], false)
	}
}

// limited reads from a connection of a wire, within stall and left.
type limited struct {
	w    *wire
	conn net.Conn
}

func (l *limited) Read(p []byte) (int, error) {
	w := l.w
	w.mu.Lock()
	barrier := w.barrier
	w.mu.Unlock()
	if barrier != nil {
		select {
		case <-barrier:
		case <-w.done:
		}
	}
	left := w.left.Load()
	if left > 0 && int64(len(p)) > left {
		p = p[:left]
	}
	n, err := l.conn.Read(p)
	if left > 0 && w.left.Add(-int64(n)) <= 0 {
		w.close()
		return n, io.EOF
	}
	return n, err
}

// modelListener accepts connections by dial.
type modelListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newModelListener() *modelListener {
	return &modelListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *modelListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *modelListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (*modelListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *modelListener) dial() (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, syscall.ECONNREFUSED
	}
}

// dialProxy opens a WebSocket to a Server, as a client.
func (m *model) dialProxy(to *modelReplica, query string, fn func(w *wire, message string, binary bool), read, lost func(*wire)) *wire {
	ours, err := to.port.dial()
	if err != nil {
		m.t.Error(err) // not Fatal, because a timer may have called
		return nil
	}
	br, _, err := ws.Dialer{}.Upgrade(ours, &url.URL{Scheme: "ws", Host: "proxy", Path: "/socket.io/", RawQuery: query + "&transport=websocket"})
	w := m.newWire(ours, true)
	if err != nil {
		m.t.Error(err) // not Fatal, because a timer may have called
		w.close()
		return w
	}
	r := io.Reader(&limited{w, ours})
	if br != nil {
		heldAcks, _ := br.Peek(br.Buffered()) // returns what is buffered, without an error
		r = io.MultiReader(strings.NewReader(string(heldAcks)), r)
	}
	go func() { // ends with the connection
		w.readLoop(r, func(message string, binary bool) { fn(w, message, binary) }, func() { read(w) })
		lost(w)
	}()
	return w
}
