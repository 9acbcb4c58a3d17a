package accept

import (
	"io"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
)

// pipes is a net.Listener whose connections are pipes.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

const upgradeHead = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\n" +
	"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// with returns upgradeHead with one text replaced by another.
func with(old, text string) string {
	if !strings.Contains(upgradeHead, old) {
		panic(old)
	}
	return strings.Replace(upgradeHead, old, text, 1)
}

// net/http's server must accept every head that parseUpgrade accepts, and read it the same way.
func FuzzUpgrade(f *testing.F) {
	for _, head := range []string{
		upgradeHead,
		with("EIO=4", "EIO=4&sid=known"),
		with("Connection: Upgrade", "Connection: keep-alive, Upgrade"),
		with("app.test", "[::1]:8080"),
		with("\r\n\r\n", "\r\nOrigin: https://app.test\r\nCookie: a=b; c=\"d\"\r\nX_A:\r\n\r\n"),
		with("\r\n\r\n", "\r\nContent-Length : 5\r\n\r\n"),
		with("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
		with("app.test", "app.test\r\n x"),
		with("HTTP/1.1", "HTTP/2.0"),
		with("/socket.io/", "//h/socket.io/"),
		with("Host: app.test", "Host: app.test\nHost: b"),
	} {
		f.Add([]byte(head))
	}
	type seen struct {
		method, target, host, proto string
		header                      http.Header
		query                       url.Values
		length                      int64
		encoding                    []string
	}
	of := func(r *http.Request) seen {
		return seen{r.Method, r.RequestURI, r.Host, r.Proto, r.Header, r.URL.Query(), r.ContentLength, r.TransferEncoding}
	}
	requests := make(chan seen, 1)
	ln := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	srv := &http.Server{MaxHeaderBytes: 64 << 10, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- of(r)
		w.Header().Set("Connection", "close")
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(ln) // returns after Close
	}()
	f.Cleanup(func() {
		_ = srv.Close() // stops it whatever it returns
		<-served
	})
	f.Fuzz(func(t *testing.T, head []byte) {
		if !mayBeUpgrade(head) || len(head) >= maxHeadBytes {
			return
		}
		r := parseUpgrade(head, endOfHead(head, 0))
		if r == nil {
			return
		}
		ours, theirs := net.Pipe()
		ln.conns <- theirs
		go func() { _, _ = ours.Write(head) }() // returns when the head was read or refused
		answer, err := io.ReadAll(ours)
		ours.Close()
		select {
		case got := <-requests:
			if want := of(r); !reflect.DeepEqual(got, want) {
				t.Errorf("net/http sees\n%+v\nand parseUpgrade\n%+v\nin %q", got, want, head)
			}
		default:
			t.Errorf("net/http answers %q, %v, to %q", answer, err, head)
		}
	})
}
