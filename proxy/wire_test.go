package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gobwas/ws"
)

// wire is the model's end of a WebSocket to or from the Server.
type wire struct {
	conn         net.Conn
	to           *modelReplica // of a page's connection
	number       int           // of a page's connections, from 1
	client       bool          // it masks its frames and answers pings
	out          chan []byte
	done         chan struct{} // closed by close
	once         sync.Once
	beat         int          // counts steps, to pace a link's heartbeat
	ignoresPings atomic.Bool  // it no longer answers pings, because its page left it
	left         atomic.Int64 // bytes to read before the connection is cut; 0 is no limit

	mu      sync.Mutex
	barrier chan struct{} // blocks reading until it is closed; nil never blocks
}

type frame struct {
	op      ws.OpCode
	payload []byte
}

func text(s string) frame   { return frame{ws.OpText, []byte(s)} }
func binary(s string) frame { return frame{ws.OpBinary, []byte(s)} }

func (m *model) newWire(conn net.Conn, client bool) *wire {
	w := &wire{conn: conn, client: client, out: make(chan []byte, 4096), done: make(chan struct{})} // never full
	m.mu.Lock()
	m.wires = append(m.wires, w)
	m.mu.Unlock()
	go w.writeLoop() // returns after close
	return w
}

func (w *wire) writeLoop() {
	for {
		select {
		case b := <-w.out:
			if _, err := w.conn.Write(b); err != nil {
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
	for _, f := range frames {
		select {
		case w.out <- w.compile(f):
		case <-w.done:
		}
	}
}

// writeTogether queues frames for a single write.
func (w *wire) writeTogether(frames ...frame) {
	var all []byte
	for _, f := range frames {
		all = append(all, w.compile(f)...)
	}
	select {
	case w.out <- all:
	case <-w.done:
	}
}

func (w *wire) close() {
	w.once.Do(func() {
		close(w.done)
		w.conn.Close()
	})
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
		case f.Header.OpCode == ws.OpText && message == "2" && w.client:
			if !w.ignoresPings.Load() {
				w.write(text("3"))
			}
		case f.Header.OpCode == ws.OpText && len(message) > 1 && message[0] == '4':
			fn(message[1:], false)
		}
	}
}

// limited reads from a wire, within stall and left.
type limited struct{ w *wire }

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
	n, err := w.conn.Read(p)
	if left > 0 && w.left.Add(-int64(n)) <= 0 {
		w.close()
		return n, io.EOF
	}
	return n, err
}

type modelListener chan net.Conn

func (l modelListener) Accept() (net.Conn, error) {
	if c, ok := <-l; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l modelListener) Close() error {
	close(l)
	return nil
}

func (modelListener) Addr() net.Addr { return &net.TCPAddr{} }

// dialProxy opens a WebSocket to a Server, as a client.
func (m *model) dialProxy(to *modelReplica, name string, fn func(w *wire, message string, binary bool), read, lost func(*wire)) *wire {
	ours, theirs := net.Pipe()
	to.conns <- theirs
	br, _, err := ws.Dialer{}.Upgrade(ours, &url.URL{Scheme: "ws", Host: "proxy", Path: "/socket.io/", RawQuery: "EIO=4&transport=websocket&page=" + name})
	w := m.newWire(ours, true)
	if err != nil {
		m.t.Error(err) // not Fatal, because a timer may have called
		w.close()
		return w
	}
	r := io.Reader(&limited{w})
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

// dialUpstream connects a Server to the application.
func (m *model) dialUpstream(_ context.Context, from *modelReplica) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go m.serveUpstream(ours, from) // ends with the connection
	return theirs, nil
}

// dialEnded reports whether err is that of a handshake whose dial ended: a redial does so when its
// client leaves.
func dialEnded(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe)
}

func (m *model) serveUpstream(conn net.Conn, from *modelReplica) {
	l := &upstreamLink{from: from, spaces: make(map[string]*socket), dropped: make(map[string]bool)}
	u := ws.Upgrader{OnRequest: func(uri []byte) error {
		_, l.page, _ = strings.Cut(string(uri), "page=")
		return nil
	}}
	if _, err := u.Upgrade(conn); err != nil {
		if !dialEnded(err) {
			m.t.Error(err)
		}
		return
	}
	l.wire = m.newWire(conn, false)
	m.mu.Lock()
	m.links = append(m.links, l)
	m.mu.Unlock()
	l.write(text(`0{"sid":"u","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`))
	l.readLoop(&limited{l.wire}, func(message string, binary bool) { m.fromClient(l, message, binary) }, func() {})
	m.linkEnded(l)
}
