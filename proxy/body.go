package proxy

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// body is a request's, which has to come in time where it is for us: net/http has a limit for headers only, or for whole
// requests, long polls included.
type body struct {
	io.ReadCloser
	failed atomic.Bool // the client's fault, not that of whom it is passed on to

	// Owned by the reader; w is nil without a timeout.
	w        http.ResponseWriter
	deadline time.Time // for an empty body
	read     int64     // bytes
	extended int64     // read, when the deadline was last moved
}

const (
	// bodyBytesPerSecond is how fast a body must come beyond its timeout, so that a large one may take its time.
	bodyBytesPerSecond = 8 << 10
	// extendBytes is how much is read before the deadline moves.
	extendBytes = 64 << 10
)

// bodyKey is the key of a request's body in its context: ReverseProxy does not tell its ErrorHandler of whom an error is.
type bodyKey struct{}

// watchBody returns the request with a body in place of its own; a timeout of 0 is none.
func watchBody(w http.ResponseWriter, r *http.Request, timeout time.Duration) *http.Request {
	if r.ContentLength == 0 {
		return r
	}
	b := &body{ReadCloser: r.Body}
	if timeout > 0 {
		b.w, b.deadline = w, time.Now().Add(timeout)
		// It ends with the body: net/http has one of its own for what follows. A test's writer does not support it.
		_ = http.NewResponseController(w).SetReadDeadline(b.deadline)
	}
	r = r.WithContext(context.WithValue(r.Context(), bodyKey{}, b))
	r.Body = b
	return r
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	if err == nil && b.w != nil && b.read-b.extended >= extendBytes {
		b.extended = b.read
		more := time.Duration(b.read/bodyBytesPerSecond) * time.Second
		_ = http.NewResponseController(b.w).SetReadDeadline(b.deadline.Add(more))
	}
	if err != nil && err != io.EOF { // a reader's end is never wrapped
		b.failed.Store(true)
	}
	return n, err
}

// doubtfulEnd reports whether another proxy may see the end of the request elsewhere: what follows on the connection is then not
// to be taken for a request. net/http does not tell of a length beside the chunks, nor of chunks in HTTP/1.0, which it passes
// over (RFC 9112, 6.1 wants the connection closed for both).
func doubtfulEnd(r *http.Request) bool { return len(r.TransferEncoding) > 0 || !r.ProtoAtLeast(1, 1) }
