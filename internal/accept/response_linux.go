package accept

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// responseWriter is the http.ResponseWriter of a WebSocket handshake. A response that is not
// hijacked is written in one piece, and then the connection is closed.
type responseWriter struct {
	conn   *netpoll.Conn
	header http.Header
	status int // 0 until WriteHeader
	body   bytes.Buffer
	rw     *bufio.ReadWriter // not nil once hijacked
}

// Header implements http.ResponseWriter.
func (w *responseWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *responseWriter) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK { // clients expect no informational ones
		w.status = status
	}
}

// Write implements http.ResponseWriter.
func (w *responseWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// readWriters are what Hijack returns; finish puts them back.
var readWriters = sync.Pool{New: func() any {
	return bufio.NewReadWriter(bufio.NewReaderSize(nil, 16), bufio.NewWriterSize(nil, 1<<10))
}}

// Hijack implements http.Hijacker. The ReadWriter is valid until the handler returns.
func (w *responseWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.rw = readWriters.Get().(*bufio.ReadWriter)
	w.rw.Reader.Reset(w.conn)
	w.rw.Writer.Reset(w.conn)
	return w.conn, w.rw, nil
}

// lingerTimeout is how long a client may take to read why it was refused.
const lingerTimeout = 5 * time.Second

// finish writes the response. It is deferred around the handler.
func (w *responseWriter) finish() {
	if v := recover(); v != nil { // http.ErrAbortHandler: the handler has reported the cause
		_ = w.conn.Close()
		return
	}
	if w.rw != nil {
		w.rw.Reader.Reset(nil)
		w.rw.Writer.Reset(nil)
		readWriters.Put(w.rw)
		return
	}
	if w.status == 0 { // the client is gone
		_ = w.conn.Close()
		return
	}
	w.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	resp := http.Response{
		StatusCode: w.status, ProtoMajor: 1, ProtoMinor: 1, Header: w.header, Close: true,
		ContentLength: int64(w.body.Len()), Body: io.NopCloser(&w.body),
	}
	var b bytes.Buffer
	_ = resp.Write(&b) // a Buffer never fails
	_, _ = w.conn.Write(b.Bytes())
	w.conn.Shutdown(lingerTimeout)
}
