package peerwire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/internal/httpmsg"
)

// On a stream a forwarded request looks as on the wire, after a line with the client's address and
// the length of its body. The answer is an HTTP response. A WebSocket's bytes follow it.

var bufferPool = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// EncodeRequest returns the head of a request as another replica reads it. client is the address of
// the client, which may be the zero Addr.
func EncodeRequest(req *http.Request, client netip.Addr) []byte {
	b := bufferPool.Get().(*bytes.Buffer)
	defer bufferPool.Put(b)
	b.Reset()
	address := ""
	if client.IsValid() {
		address = net.JoinHostPort(client.String(), "0")
	}
	b.WriteString(address + " " + strconv.FormatInt(req.ContentLength, 10) + "\r\n")
	path, query, has := httpmsg.Target(req)
	b.WriteString(req.Method + " " + path)
	if has {
		b.WriteString("?" + query)
	}
	b.WriteString(" HTTP/1.1\r\nHost: " + req.Host + "\r\n")
	_ = req.Header.Write(b) // writing to a Buffer does not fail
	b.WriteString("\r\n")
	return bytes.Clone(b.Bytes())
}

var errRequest = errors.New("peerwire: malformed forwarded request")

// ParseRequest reads what EncodeRequest has written.
func ParseRequest(st *cluster.Stream) (*http.Request, error) {
	line, head, ok := bytes.Cut(st.About(), []byte("\r\n"))
	address, length, spaced := strings.Cut(string(line), " ")
	n, err := strconv.ParseInt(length, 10, 64)
	if !ok || !spaced || err != nil {
		return nil, errRequest
	}
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil {
		return nil, err
	}
	req.RemoteAddr = address
	req.Body, req.ContentLength = http.NoBody, n
	if req.Method == http.MethodPost {
		req.Body = io.NopCloser(&body{st, n})
	}
	if _, err := url.ParseQuery(req.URL.RawQuery); err != nil && req.URL.Query().Get("sid") == "" {
		return nil, err
	}
	return req, nil
}

// Response is the http.ResponseWriter of a forwarded request. A response that is not hijacked is
// written in one piece.
type Response struct {
	st       *cluster.Stream
	header   http.Header
	status   int // 0 until WriteHeader
	body     bytes.Buffer
	hijacked bool
}

// NewResponse returns the response to a request that came on st.
func NewResponse(st *cluster.Stream) *Response {
	return &Response{st: st, header: make(http.Header)}
}

// Header implements http.ResponseWriter.
func (w *Response) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *Response) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

// Write implements http.ResponseWriter.
func (w *Response) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// Hijack implements http.Hijacker.
func (w *Response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.hijacked = true
	return w.st, bufio.NewReadWriter(bufio.NewReaderSize(strings.NewReader(""), 16), bufio.NewWriterSize(w.st, 1<<10)), nil
}

// Finish writes the response. It is deferred around the handler.
func (w *Response) Finish() {
	v := recover()
	switch {
	case v != nil, w.status == 0 && !w.hijacked: // http.ErrAbortHandler: the handler has reported the cause
		_ = w.st.Close()
		return
	case w.hijacked:
		return
	}
	b := bufferPool.Get().(*bytes.Buffer)
	defer bufferPool.Put(b)
	b.Reset()
	b.WriteString("HTTP/1.1 " + strconv.Itoa(w.status) + " " + http.StatusText(w.status) + "\r\n")
	w.header.Set("Content-Length", strconv.Itoa(w.body.Len()))
	_ = w.header.Write(b) // writing to a Buffer does not fail
	b.WriteString("\r\n")
	b.Write(w.body.Bytes())
	w.st.Append(b.Bytes())
	_ = w.st.CloseWrite()
	w.st.Flush() // if it could not be sent with the end
}

// body is the body of a forwarded request. Like net/http's, it fails if it ends before its
// announced length: the client was cut, and no part of the body counts.
type body struct {
	st   io.Reader
	left int64 // negative if the length was not announced
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.st.Read(p)
	announced := b.left >= 0
	if b.left -= int64(n); announced && (b.left < 0 || b.left > 0 && errors.Is(err, io.EOF)) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
