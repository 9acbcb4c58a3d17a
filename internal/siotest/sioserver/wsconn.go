package sioserver

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/siotest/sioserver/wire"
)

const (
	// closeGrace is how long a client may take to answer our close frame.
	closeGrace = 30 * time.Second
	// shutdownGrace is that time once Server.Close was called.
	shutdownGrace = 500 * time.Millisecond

	readBufferBytes = 1024     // small: a connection holds it while it is idle
	maxBatchBytes   = 64 << 10 // up to here frames are copied into one write
)

// wsConn is one WebSocket. It may carry a session, probe for an upgrade, or
// neither once the session is over and the close handshake runs.
type wsConn struct {
	srv *Server
	nc  net.Conn
	in  *wire.MessageReader // owned by readLoop

	mu       sync.Mutex
	out      [][]byte // frames to write, oldest first
	spare    [][]byte // the previous out, for reuse
	writing  bool     // writeLoop runs
	closing  bool     // our close frame is the last of out
	readDone bool     // readLoop handles no more messages
	drains   bool     // but still reads, until the client's end
}

// newWSConn takes over an upgraded connection. Early is what the client sent
// before it had our answer.
func newWSConn(srv *Server, nc net.Conn, early []byte) *wsConn {
	var r io.Reader = nc
	if len(early) > 0 {
		r = io.MultiReader(bytes.NewReader(early), nc)
	}
	br := bufio.NewReaderSize(r, readBufferBytes)
	return &wsConn{
		srv: srv,
		nc:  nc,
		in:  wire.NewMessageReader(br, ws.StateServerSide, srv.opts.MaxPayloadBytes),
	}
}

// send queues packets. It never blocks.
func (w *wsConn) send(parts ...part) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closing {
		return
	}
	for _, p := range parts {
		w.out = append(w.out, p.frame)
	}
	w.wakeLocked()
}

// wakeLocked starts the writer unless it runs. w.mu must be held, and
// readLoop must be running: it keeps srv.loops above zero.
func (w *wsConn) wakeLocked() {
	if !w.writing && len(w.out) > 0 {
		w.writing = true
		w.srv.loops.Add(1)
		go w.writeLoop() // ends when out is empty
	}
}

// close sends a close frame after what is queued, and bounds the time that
// the client has to answer it.
func (w *wsConn) close(frame []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closing {
		return
	}
	w.closing = true
	w.out = append(w.out, frame)
	w.srv.bound(w)
	w.wakeLocked()
}

// readLoop ends when the client closes, or the connection does.
func (w *wsConn) readLoop(c *conn) {
	defer w.srv.loops.Done()
	defer w.srv.forget(w)
	err := w.read(c)

	reason := "transport close"
	closeErr, violated := errors.AsType[*wire.CloseError](err)
	if violated {
		reason = "transport error"
		w.close(ws.MustCompileFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(closeErr.Code, ""))))
	}
	c.onWebSocketEnd(w, reason)
	if err != nil && !violated {
		w.nc.Close() // ends the writer, too
		return
	}
	w.mu.Lock()
	w.readDone, w.drains = true, violated
	idle := !w.writing
	w.mu.Unlock()
	if idle {
		w.finish(violated)
	}
	if violated {
		// Closing with data unread would reset the connection, and the
		// client might never see why.
		_, _ = io.Copy(io.Discard, w.nc)
		w.nc.Close()
	}
}

// finish is called when the last frame is written and no message is expected.
// If readLoop still drains the connection, closing is left to it.
func (w *wsConn) finish(drains bool) {
	if half, ok := w.nc.(interface{ CloseWrite() error }); ok && drains {
		if half.CloseWrite() == nil {
			return
		}
	}
	w.nc.Close()
}

// read handles messages until the client's close frame, for which it returns
// nil, or an error.
func (w *wsConn) read(c *conn) error {
	for {
		op, payload, err := w.in.Next()
		if err != nil {
			return err
		}
		switch op {
		case ws.OpPing:
			w.send(newPart(nil, payload, ws.OpPong))
		case ws.OpPong:
		case ws.OpClose:
			frame := ws.CompiledClose
			if len(payload) >= 2 {
				frame = ws.MustCompileFrame(ws.NewCloseFrame(payload[:2]))
			}
			w.close(frame)
			return nil
		default:
			c.onWebSocketMessage(w, op, payload)
		}
	}
}

// writeLoop writes what is queued, as few writes as possible, until nothing is
// left or the connection ends.
func (w *wsConn) writeLoop() {
	defer w.srv.loops.Done()
	for {
		w.mu.Lock()
		if len(w.out) == 0 {
			w.writing = false
			done, drains := w.closing && w.readDone, w.drains
			w.mu.Unlock()
			if done {
				w.finish(drains)
			}
			return
		}
		batch := w.out
		w.out, w.spare = w.spare, nil
		w.mu.Unlock()

		if err := writeFrames(w.nc, batch); err != nil {
			w.nc.Close() // readLoop reports the end of the session
			w.mu.Lock()
			w.out, w.spare, w.closing = nil, nil, true
			w.mu.Unlock()
			continue
		}
		clear(batch)
		w.mu.Lock()
		if cap(batch) <= 16 { // more would be held by an idle connection
			w.spare = batch[:0]
		}
		w.mu.Unlock()
	}
}

var batchBuffers = sync.Pool{New: func() any { return new([]byte) }}

// writeFrames writes frames in order. A few small ones are cheaper to copy
// than to hand to writev.
func writeFrames(nc net.Conn, frames [][]byte) error {
	if len(frames) == 1 {
		_, err := nc.Write(frames[0])
		return err
	}
	buf := batchBuffers.Get().(*[]byte)
	defer batchBuffers.Put(buf)
	for len(frames) > 0 {
		b := (*buf)[:0]
		n := 0
		for n < len(frames) && (n == 0 || len(b)+len(frames[n]) <= maxBatchBytes) {
			if n == 0 && len(frames[n]) > maxBatchBytes {
				break
			}
			b = append(b, frames[n]...)
			n++
		}
		if n == 0 { // too large to copy
			b, n = frames[0], 1
		} else {
			*buf = b
		}
		if _, err := nc.Write(b); err != nil {
			return err
		}
		frames = frames[n:]
	}
	return nil
}
