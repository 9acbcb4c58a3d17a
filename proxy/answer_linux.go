package proxy

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

// answerWriter is the http.ResponseWriter of a WebSocket's handshake. What is not hijacked is answered as a whole, and the
// connection closed.
type answerWriter struct {
	conn     *netpoll.Conn
	header   http.Header
	status   int // 0 until it is written
	body     bytes.Buffer
	rw       *bufio.ReadWriter // once hijacked
	hijacked bool
}

// Header implements http.ResponseWriter.
func (w *answerWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *answerWriter) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK { // nobody waits for interim answers
		w.status = status
	}
}

// Write implements http.ResponseWriter.
func (w *answerWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// readWriters are what Hijack gives, for as long as the handshake is being answered.
var readWriters = sync.Pool{New: func() any {
	return bufio.NewReadWriter(bufio.NewReaderSize(nil, 16), bufio.NewWriterSize(nil, 1<<10))
}}

// Hijack implements http.Hijacker.
func (w *answerWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.hijacked = true
	w.rw = readWriters.Get().(*bufio.ReadWriter)
	w.rw.Reader.Reset(w.conn)
	w.rw.Writer.Reset(w.conn)
	return w.conn, w.rw, nil
}

// answerLinger is how long a client may take to read why it was refused.
const answerLinger = 5 * time.Second

// finish is deferred around what writes the answer.
func (w *answerWriter) finish() {
	if v := recover(); v != nil { // what containRequest goes on with: it has told of it
		_ = w.conn.Close()
		return
	}
	if w.rw != nil {
		w.rw.Reader.Reset(nil)
		w.rw.Writer.Reset(nil)
		readWriters.Put(w.rw)
	}
	switch {
	case w.hijacked:
		return
	case w.status == 0: // nobody is there to be answered
		_ = w.conn.Close()
		return
	}
	w.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	resp := http.Response{
		StatusCode: w.status, ProtoMajor: 1, ProtoMinor: 1, Header: w.header, Close: true,
		ContentLength: int64(w.body.Len()), Body: io.NopCloser(&w.body),
	}
	var b bytes.Buffer
	_ = resp.Write(&b) // a Buffer takes all
	_, _ = w.conn.Write(b.Bytes())
	w.conn.Shutdown(answerLinger)
}
