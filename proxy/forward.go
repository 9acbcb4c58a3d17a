package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/httpmsg"
	"github.com/holdfast/holdfast/internal/netpoll"
	"github.com/holdfast/holdfast/internal/peerwire"
	"github.com/holdfast/holdfast/internal/relay"
)

// Requests whose sid names another replica are served there, so that a balancer may send each
// request of a client to any replica.

var (
	streamPool = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}
	bodyPool   = sync.Pool{New: func() any { return new([cluster.MaxFirst]byte) }}
)

// encodeRequest returns the head of a request as another replica reads it.
func (r *replicas) encodeRequest(req *http.Request) []byte {
	return peerwire.EncodeRequest(req, r.settings().trusted.ClientAddress(req))
}

// forward passes a request to the replica that serves its client, and the answer back. If that
// replica cannot be reached, the client learns that its sid is unknown, so that it reconnects.
func (r *replicas) forward(w http.ResponseWriter, req *http.Request, owner string) {
	r.metrics.ForwardedRequests.Inc()
	r.conns.addPassing(1)
	defer r.conns.addPassing(-1)
	buf := bodyPool.Get().(*[cluster.MaxFirst]byte)
	defer bodyPool.Put(buf)
	first, end, bodyErr := beginBody(req, buf[:])
	st, err := r.node.OpenWith(req.Context(), owner, peerwire.StreamRequest, r.encodeRequest(req), first, end)
	if err != nil {
		r.log.Debug("a request could not be forwarded to the replica of its sid", "owner", owner, "error", err)
		if req.Context().Err() != nil {
			noAnswer()
		}
		writeAnswer(r.log, w, req, engineio.ErrorAnswer(engineio.CodeUnknownSID))
		return
	}
	if httpmsg.IsUpgrade(req) {
		r.forwardUpgrade(w, st)
		return
	}
	defer func() { _ = st.Close() }()
	defer context.AfterFunc(req.Context(), func() { _ = st.Close() })()
	defer context.AfterFunc(r.drained, func() { _ = st.Close() })()
	if bodyErr == nil && !end {
		if _, bodyErr = io.CopyBuffer(st, req.Body, buf[:]); bodyErr == nil {
			_ = st.CloseWrite()
		}
	}
	if bodyErr != nil {
		panic(http.ErrAbortHandler) // the stream is reset, so the owner handles nothing of the body
	}
	r.forwardAnswer(w, req, st)
}

// beginBody reads what of a request's body fits buf. Most bodies do, and then end is true. An
// upgraded connection has no end.
func beginBody(req *http.Request, buf []byte) (first []byte, end bool, err error) {
	if httpmsg.IsUpgrade(req) || req.Method != http.MethodPost {
		return nil, !httpmsg.IsUpgrade(req), nil
	}
	n := 0
	for n < len(buf) && err == nil { // not io.ReadFull, which does not tell an early end
		var more int
		more, err = req.Body.Read(buf[n:])
		n += more
	}
	if end = errors.Is(err, io.EOF); end {
		err = nil
	}
	return buf[:n], end, err
}

// forwardForeign forwards a request whose sid names another replica. It returns false if the sid
// does not.
func (r *replicas) forwardForeign(w http.ResponseWriter, req *http.Request, q url.Values) bool {
	if !handles(req, q) {
		return false
	}
	owner := r.serverOf(req.Context(), q.Get("sid"))
	if owner != "" {
		r.forward(w, req, owner)
	}
	return owner != ""
}

// movedMeanwhile forwards a request whose client was moved to another replica after the request had
// found it. a is what its Socket answered. A client that was moved here and has ended goes nowhere:
// the replica that its sid names would pass the request back until it knows.
func (r *replicas) movedMeanwhile(w http.ResponseWriter, req *http.Request, c *client, a engineio.Answer) bool {
	if r == nil || a.Code != engineio.CodeUnknownSID {
		return false
	}
	owner := r.movedTo(req.Context(), c.sock.SID())
	if owner != "" {
		r.forward(w, req, owner)
	}
	return owner != ""
}

// movedBeforeProbe forwards a WebSocket whose client was moved to another replica, or has ended,
// after the request had found it. The owner answers the handshake.
func (r *replicas) movedBeforeProbe(req *http.Request, c *client, h *httpmsg.Hijacked) {
	// The connection is hijacked, so the request's context does not end with the client.
	ctx, cancel := context.WithTimeout(req.Context(), askTimeout)
	defer cancel()
	if owner := r.movedTo(ctx, c.sock.SID()); owner != "" {
		if st, err := r.node.Open(ctx, owner, peerwire.StreamRequest, r.encodeRequest(req)); err == nil {
			r.metrics.ForwardedRequests.Inc()
			relay.Serve(r, h.Conn, h.Initial, st)
			return
		}
	}
	h.Conn.Close()
}

// forwardAnswer writes the answer of another replica.
func (r *replicas) forwardAnswer(w http.ResponseWriter, req *http.Request, st *cluster.Stream) {
	br := streamPool.Get().(*bufio.Reader)
	defer func() {
		br.Reset(nil)
		streamPool.Put(br)
	}()
	br.Reset(st)
	resp, err := http.ReadResponse(br, req)
	if err == nil {
		defer resp.Body.Close()
		var body []byte
		if body, err = io.ReadAll(resp.Body); err == nil {
			w.Header()["Content-Type"] = nil // keeps net/http from guessing one
			httpmsg.CopyHeader(w.Header(), resp.Header)
			w.WriteHeader(resp.StatusCode)
			if err := writeBody(w, body); err != nil {
				r.log.Debug("polling answer not taken", "bytes", len(body), "error", err)
			}
			return
		}
	}
	if errors.Is(err, netpoll.ErrPeerLost) && req.Context().Err() == nil {
		writeAnswer(r.log, w, req, engineio.ErrorAnswer(engineio.CodeUnknownSID))
		return
	}
	panic(http.ErrAbortHandler) // the owner closed the connection without an answer
}

// forwardUpgrade relays a WebSocket with a foreign sid. The owner answers the handshake.
func (r *replicas) forwardUpgrade(w http.ResponseWriter, st *cluster.Stream) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err == nil {
		err = conn.SetDeadline(time.Time{}) // clears net/http's deadlines
	}
	if err != nil {
		_ = st.Close()
		if conn != nil {
			conn.Close()
		}
		return
	}
	var initial []byte
	if n := rw.Reader.Buffered(); n > 0 {
		initial, _ = rw.Peek(n)
		initial = bytes.Clone(initial)
	}
	if c, ok := conn.(interface{ Unread() []byte }); ok {
		initial = append(initial, c.Unread()...)
	}
	relay.Serve(r, conn, initial, st)
}
