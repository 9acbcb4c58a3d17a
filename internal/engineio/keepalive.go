package engineio

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxIdle is how long an idle connection is kept: less than common servers keep it (gunicorn: 2
	// s).
	maxIdle = time.Second
	// refusalTimeout is how long a server that stopped reading a request may take to send its
	// answer.
	refusalTimeout = time.Second
)

// keepAlive makes requests one at a time, over its own connection that it keeps for a moment.
// A polling Conn has one for polls and one for POSTs. It does not use http.Transport, for two
// reasons:
//
//   - Some balancers look only at the first request of a connection (@socket.io/sticky). Conns must
//     not share connections.
//   - http.Transport repeats a poll if a kept connection breaks before the answer. A proxy in
//     between may have received the answer, with packets that would be lost. It also notices too
//     late that an idle connection was closed, which costs a POST.
//
// A request is repeated only if the server cannot have received all of the first one. Close may be
// called during a request.
type keepAlive struct {
	dial     func(ctx context.Context) (net.Conn, error)
	server   *keeping
	sidKnown bool // the server has accepted the sid; owned by the caller of Conn.laterRoundTrip

	mu     sync.Mutex // guards the fields below; never held during I/O
	idle   net.Conn   // nil during a request, or if none is kept
	until  time.Time  // when idle is closed
	expiry *time.Timer
	closed bool
}

// errUnsent means that the server did not receive all of a request, and did not answer.
var errUnsent = errors.New("engineio: connection lost before the request was sent")

// bodyReader reads the body of an answer with status 200.
type bodyReader func(io.Reader) ([]byte, error)

// readRefusal is the bodyReader for other answers.
func readRefusal(r io.Reader) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r, maxRejectionBytes))
}

// response is the head of an answer whose body has been read.
type response struct {
	status int
	header http.Header
	last   bool // the server will close the connection
}

// do makes a request. The end of ctx aborts it.
func (k *keepAlive) do(ctx context.Context, method string, request []byte, read bodyReader) (*response, []byte, error) {
	conn := k.reuse()
	if conn != nil {
		resp, body, err := k.exchange(ctx, conn, method, request, read)
		if !errors.Is(err, errUnsent) || ctx.Err() != nil {
			return resp, body, err
		}
	}
	conn, err := k.dial(ctx)
	if err != nil {
		return nil, nil, errors.Join(ctx.Err(), err)
	}
	return k.exchange(ctx, conn, method, request, read)
}

// exchange sends a request over conn, reads the answer, and then keeps or closes conn.
func (k *keepAlive) exchange(ctx context.Context, conn net.Conn, method string, request []byte, read bodyReader) (resp *response, body []byte, err error) {
	keep := time.Duration(0)
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(longAgo) })
	defer func() {
		if !stop() { // the connection has a deadline now
			keep, err = 0, errors.Join(ctx.Err(), err)
		}
		k.keep(conn, keep)
	}()
	n, writeErr := conn.Write(request)
	if writeErr != nil { // the server may have answered without reading all of the request
		_ = conn.SetReadDeadline(time.Now().Add(refusalTimeout))
	}
	a := &answerReader{conn: conn}
	resp, body, whole, err := a.read(method, read)
	switch {
	case writeErr != nil && err != nil && n < len(request):
		return nil, nil, errors.Join(errUnsent, writeErr)
	case err != nil:
		return nil, nil, err
	case whole && writeErr == nil && !resp.last:
		keep = keepFor(resp.header)
	}
	return resp, body, nil
}

// keepFor returns how long a connection may be kept after an answer: at most half of what the
// server announces.
func keepFor(h http.Header) time.Duration {
	keep := maxIdle
	for param := range strings.SplitSeq(h.Get("Keep-Alive"), ",") {
		if v, ok := strings.CutPrefix(strings.TrimSpace(param), "timeout="); ok {
			if seconds, err := strconv.Atoi(v); err == nil && seconds >= 0 && seconds < 60 {
				keep = min(keep, time.Duration(seconds)*time.Second/2)
			}
		}
	}
	return keep
}

// answerReader reads an answer. It takes no buffer while it waits for the first byte.
type answerReader struct {
	conn  net.Conn
	first [1]byte
	unget bool
}

// Read implements io.Reader.
func (a *answerReader) Read(p []byte) (int, error) {
	if a.unget && len(p) > 0 {
		a.unget = false
		p[0] = a.first[0]
		return 1, nil
	}
	return a.conn.Read(p)
}

// read reads an answer. whole reports whether it read the body to its end, and nothing followed.
func (a *answerReader) read(method string, read bodyReader) (_ *response, body []byte, whole bool, err error) {
	if _, err := io.ReadFull(a.conn, a.first[:]); err != nil {
		return nil, nil, false, err
	}
	a.unget = true
	br := newReader(a)
	defer freeReader(br)
	resp, err := readFinal(br, method)
	if err != nil {
		return nil, nil, false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		read = readRefusal
	}
	if body, err = read(resp.Body); err != nil {
		return nil, nil, false, err
	}
	n, err := resp.Body.Read(a.first[:])
	whole = n == 0 && errors.Is(err, io.EOF) && br.Buffered() == 0
	return &response{resp.StatusCode, resp.Header, resp.Close}, body, whole, nil
}

// readFinal reads the head of the final answer. It skips interim ones.
func readFinal(br *bufio.Reader, method string) (*http.Response, error) {
	for {
		resp, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil || resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, err
		}
		_ = resp.Body.Close() // it has none
	}
}

// reuse returns the idle connection, or nil if there is no usable one.
func (k *keepAlive) reuse() net.Conn {
	k.mu.Lock()
	conn := k.idle
	k.idle = nil
	if k.expiry != nil {
		k.expiry.Stop()
	}
	fresh := time.Now().Before(k.until)
	k.mu.Unlock()
	switch {
	case conn == nil:
		return nil
	case !fresh:
		conn.Close()
		return nil
	case !isQuiet(conn):
		k.server.closedEarly()
		conn.Close()
		return nil
	}
	return conn
}

// keep keeps conn for d, or closes it if d is 0.
func (k *keepAlive) keep(conn net.Conn, d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d <= 0 || k.closed {
		conn.Close()
		return
	}
	if keep, taken := k.server.take(conn); !keep {
		if !taken {
			conn.Close()
		}
		return
	}
	k.idle, k.until = conn, time.Now().Add(d)
	if k.expiry == nil {
		k.expiry = time.AfterFunc(d, k.expire)
	} else {
		k.expiry.Reset(d)
	}
}

func (k *keepAlive) expire() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.idle != nil && !time.Now().Before(k.until) {
		k.idle.Close()
		k.idle = nil
	}
}

// Close closes the idle connection, and keeps none from now on. Its context ends a request in
// progress.
func (k *keepAlive) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	if k.expiry != nil {
		k.expiry.Stop()
	}
	if k.idle != nil {
		k.idle.Close()
		k.idle = nil
	}
}
