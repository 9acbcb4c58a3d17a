package httpmsg

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// body enforces limits.body_timeout on the bodies of Engine.IO requests. net/http has a timeout for
// headers only, or one for whole requests, which would cut long polls.
type body struct {
	io.ReadCloser
	failed atomic.Bool // reading from the client failed, so the upstream is not to blame

	// The fields below belong to the reader. w is nil without a timeout.
	w        http.ResponseWriter
	deadline time.Time // before any extension
	read     int64     // bytes read
	extended int64     // value of read when the deadline last moved
}

const (
	// bodyBytesPerSecond is the rate at which received bytes extend the deadline, so that large
	// bodies get more time.
	bodyBytesPerSecond = 8 << 10
	// extendBytes is how many bytes are read between two extensions.
	extendBytes = 64 << 10
)

// bodyKey is the context key of a request's body, for BodyFailed.
type bodyKey struct{}

// WatchBody returns r with its body wrapped in a body. A timeout of 0 means no timeout.
func WatchBody(w http.ResponseWriter, r *http.Request, timeout time.Duration) *http.Request {
	if r.ContentLength == 0 {
		return r
	}
	b := &body{ReadCloser: r.Body}
	if timeout > 0 {
		b.w, b.deadline = w, time.Now().Add(timeout)
		// net/http sets its own deadline for the next request. The error is ignored because writers
		// in tests do not support deadlines.
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
	if err != nil && err != io.EOF { // readers return io.EOF unwrapped
		b.failed.Store(true)
	}
	return n, err
}

// BodyFailed reports whether the body of a request that WatchBody has returned could not be read
// from the client. ReverseProxy's ErrorHandler asks, because the error alone does not say whether
// the client or the upstream failed.
func BodyFailed(r *http.Request) bool {
	b, ok := r.Context().Value(bodyKey{}).(*body)
	return ok && b.failed.Load()
}

// DoubtfulEnd reports whether a proxy in front may see the end of the request elsewhere. The
// connection must then be closed after it, or the bytes that follow could smuggle a request. RFC
// 9112, 6.1 requires this for a Content-Length beside chunks and for chunks in HTTP/1.0. net/http
// reports neither, so all chunked and HTTP/1.0 requests count.
func DoubtfulEnd(r *http.Request) bool { return len(r.TransferEncoding) > 0 || !r.ProtoAtLeast(1, 1) }
