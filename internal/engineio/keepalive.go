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
	// maxIdle is how long a connection without a request is kept: less than any server in use does (gunicorn: 2 s).
	maxIdle = time.Second
	// refusalPatience is how long a server may take to send the answer for the sake of which it did not read a request.
	refusalPatience = time.Second
)

// keepAlive makes requests one after the other, over a connection of its own that it keeps for a moment. A polling Conn has one
// for polls and one for POSTs. They are not http.Transport's, for two reasons:
//
//   - Some balancers look at the first request of a connection only (@socket.io/sticky), so no other link's may come before.
//   - http.Transport sends a poll again if a kept connection breaks before the answer. A proxy in between may have had the
//     answer already, with packets that are then lost. And it does not see a close that arrived while the connection was idle
//     in time, which costs a POST.
//
// A request is sent again only if the server cannot have got the whole of the first one.
// It makes one request at a time. Close may be called meanwhile.
type keepAlive struct {
	dial func(ctx context.Context) (net.Conn, error)

	mu     sync.Mutex // guards the fields below; never held during I/O
	idle   net.Conn   // nil while a request is under way, or if none is kept
	until  time.Time  // when idle is closed
	expiry *time.Timer
	closed bool
}

// errUnsent means that the server has not got the whole of a request, and has not answered.
var errUnsent = errors.New("engineio: connection lost before the request was sent")

// bodyReader reads what is wanted of the body of an answer with status 200.
type bodyReader func(io.Reader) ([]byte, error)

// readRefusal is the bodyReader of other answers.
func readRefusal(r io.Reader) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r, maxRejectionBytes))
}

// response is the head of an answer whose body has been read.
type response struct {
	status int
	header http.Header
	last   bool // on its connection
}

// do makes a request with a context that ends it.
func (k *keepAlive) do(ctx context.Context, method string, request []byte, read bodyReader) (*response, []byte, error) {
	conn := k.take()
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

// exchange sends a request over the connection, which it keeps or closes.
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
	if writeErr != nil { // it may have been refused unread
		_ = conn.SetReadDeadline(time.Now().Add(refusalPatience))
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

// keepFor is how long a connection may be kept after an answer: half of what the server announces at most.
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

// answerReader reads an answer. It has no buffer while it waits for the first byte.
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

// read reads an answer. whole reports whether its body was read to the end, and nothing came behind it.
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

// readFinal reads the head of an answer. Interim answers are passed over.
func readFinal(br *bufio.Reader, method string) (*http.Response, error) {
	for {
		resp, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil || resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, err
		}
		_ = resp.Body.Close() // it has none
	}
}

// take returns the idle connection, or nil if there is none that can be used.
func (k *keepAlive) take() net.Conn {
	k.mu.Lock()
	conn := k.idle
	k.idle = nil
	if k.expiry != nil {
		k.expiry.Stop()
	}
	fresh := time.Now().Before(k.until)
	k.mu.Unlock()
	if conn != nil && (!fresh || !isQuiet(conn)) {
		conn.Close()
		return nil
	}
	return conn
}

// keep keeps a connection for a while, or closes it.
func (k *keepAlive) keep(conn net.Conn, d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d <= 0 || k.closed {
		conn.Close()
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

// Close closes the idle connection, and keeps none from now on. A request under way ends with its context.
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
