package sioserver

import (
	"compress/gzip"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// gzipThresholdBytes is the size from which payloads are compressed.
const gzipThresholdBytes = 1024

// servePoll answers a GET with packets, as soon as there are any.
func (c *conn) servePoll(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	switch {
	case c.state == connClosed:
		c.mu.Unlock()
		refuse(w, errUnknownSID)
		return
	case c.ws != nil:
		c.mu.Unlock()
		refuse(w, errBadRequest)
		return
	case c.poll != nil:
		c.mu.Unlock()
		c.end("transport error", closePart)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if len(c.queue) > 0 {
		parts := c.queue
		c.queue = nil
		c.mu.Unlock()
		c.srv.writePayload(w, r, parts)
		return
	}
	if c.state == connClosing {
		c.mu.Unlock()
		c.end("forced close", closePart)
		c.srv.writePayload(w, r, []part{noopPart, closePart})
		return
	}
	p := &poll{answer: make(chan []part, 1)}
	c.poll = p
	c.mu.Unlock()

	select {
	case parts := <-p.answer:
		if len(parts) == 0 {
			refuse(w, errBadRequest)
			return
		}
		c.srv.writePayload(w, r, parts)
	case <-r.Context().Done(): // the client has closed the connection
		c.mu.Lock()
		waiting := c.poll == p
		if waiting {
			c.poll = nil
		}
		c.mu.Unlock()
		if waiting {
			c.end("transport error", closePart)
		}
	}
}

// servePost takes packets.
func (c *conn) servePost(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Content-Type") == "application/octet-stream" {
		c.end("transport error", closePart)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	p := &post{control: http.NewResponseController(w), receiving: true}
	c.mu.Lock()
	switch {
	case c.state == connClosed:
		c.mu.Unlock()
		refuse(w, errUnknownSID)
		return
	case c.ws != nil:
		c.mu.Unlock()
		refuse(w, errBadRequest)
		return
	case c.post != nil:
		c.mu.Unlock()
		c.end("transport error", closePart) // aborts the other one
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	c.post = p
	c.mu.Unlock()

	limit := c.srv.opts.MaxPayloadBytes
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	tooLarge := int64(len(body)) > limit

	c.mu.Lock()
	p.receiving = false
	aborted := p.aborted
	if aborted || err != nil || tooLarge {
		c.post = nil
	}
	c.mu.Unlock()
	switch {
	case aborted:
		panic(http.ErrAbortHandler)
	case tooLarge:
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	case err != nil: // the client has closed the connection
		c.end("transport error", closePart)
		return
	}
	c.receivePayload(body)
	c.mu.Lock()
	c.post = nil
	c.mu.Unlock()
	h := w.Header()
	h.Set("Content-Type", "text/html")
	h.Set("Content-Length", "2")
	_, _ = io.WriteString(w, "ok") // the client's loss: its next poll fails
}

var gzipWriters = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

// writePayload answers a poll.
func (s *Server) writePayload(w http.ResponseWriter, r *http.Request, parts []part) {
	buf := batchBuffers.Get().(*[]byte)
	defer batchBuffers.Put(buf)
	body := appendPayload((*buf)[:0], parts)
	*buf = body

	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	if len(body) >= gzipThresholdBytes && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		zw := gzipWriters.Get().(*gzip.Writer)
		defer gzipWriters.Put(zw)
		zw.Reset(w)
		// A failed write is the client's loss, as in engine.io.
		if _, err := zw.Write(body); err == nil {
			_ = zw.Close()
		}
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
}
