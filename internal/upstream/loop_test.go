package upstream

import (
	"context"
	"errors"
	"net"
	"net/http"
	"testing"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
)

// addrConn is a connection of which only the addresses are of interest.
type addrConn struct {
	net.Conn
	local, remote net.Addr
	closed        bool
}

func (c *addrConn) LocalAddr() net.Addr  { return c.local }
func (c *addrConn) RemoteAddr() net.Addr { return c.remote }

func (c *addrConn) Close() error {
	c.closed = true
	return nil
}

func TestConnectionsToTheOwnListenerAreRefused(t *testing.T) {
	tests := []struct {
		name, listen, local, remote string
		url                         string
		refused                     bool
	}{
		{"any address, over loopback", ":8080", "127.0.0.1:50000", "127.0.0.1:8080", "http://app:8080", true},
		{"any address, over IPv6", "0.0.0.0:8080", "[::1]:50000", "[::1]:8080", "http://app:8080", true},
		{"any address, over the machine's own", "[::]:8080", "10.0.0.5:50000", "10.0.0.5:8080", "http://app:8080", true},
		{"another of the loopback's addresses", ":8080", "127.0.0.1:50000", "127.0.0.2:8080", "http://app:8080", true},
		{"one address", "10.0.0.5:8080", "10.0.0.5:50000", "10.0.0.5:8080", "http://app:8080", true},
		{"by name", "localhost:8080", "127.0.0.1:50000", "127.0.0.1:8080", "http://app:8080", true},
		{"by name, in capitals", "LOCALHOST:8080", "127.0.0.1:50000", "127.0.0.1:8080", "http://app:8080", true},
		{"the unspecified address", "127.0.0.1:8080", "127.0.0.1:50000", "0.0.0.0:8080", "http://0.0.0.0:8080", true},
		{"the scheme's port", ":80", "127.0.0.1:50000", "127.0.0.1:80", "http://app", true},

		{"another host", ":8080", "10.0.0.5:50000", "10.0.0.6:8080", "http://app:8080", false},
		{"another port", ":8080", "127.0.0.1:50000", "127.0.0.1:3000", "http://app:3000", false},
		{"another of the machine's addresses", "127.0.0.1:8080", "10.0.0.5:50000", "10.0.0.5:8080", "http://app:8080", false},
		{"another of the loopback's addresses than the listener's", "127.0.0.1:8080", "127.0.0.1:50000", "127.0.0.2:8080", "http://app:8080", false},
		{"a listener on a Unix socket", "unix:///run/holdfast.sock", "127.0.0.1:50000", "127.0.0.1:8080", "http://app:8080", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn := &addrConn{local: tcpAddr(t, tt.local), remote: tcpAddr(t, tt.remote)}
			u := loopTest(t, tt.listen, tt.url, func(context.Context, string, string) (net.Conn, error) { return conn, nil })
			_, err := u.list[0].dialPlain(t.Context())
			if refused := errors.Is(err, errOwnListener); refused != tt.refused || conn.closed != tt.refused {
				t.Errorf("%v, closed: %v; want refused: %v", err, conn.closed, tt.refused)
			}
		})
	}
}

// TestALoopEndsAtTheFirstConnection uses real connections of both kinds: netpoll's, and package
// net's.
func TestALoopEndsAtTheFirstConnection(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	u := loopTest(t, ln.Addr().String(), "http://"+ln.Addr().String(), nil)
	req := engineio.Request{WebSocket: true, Path: "/socket.io/", RawQuery: "EIO=4&transport=websocket"}
	if _, err := u.Dial(t.Context(), req); !errors.Is(err, errOwnListener) {
		t.Errorf("a handshake: %v; want %v", err, errOwnListener)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, Base().String(), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := u.RoundTripper().RoundTrip(r)
	if err == nil {
		resp.Body.Close()
	}
	if !errors.Is(err, errOwnListener) || !neverSent(err) {
		t.Errorf("a request that passes through: %v; want %v, without being sent", err, errOwnListener)
	}
}

func loopTest(t *testing.T, listen, url string, connect func(context.Context, string, string) (net.Conn, error)) *Upstream {
	t.Helper()
	cfg := config.Default().Upstream
	cfg.URL = config.URLs{url}
	u, err := New(cfg, Options{Listen: listen, EngineIOPath: "/socket.io/", Connect: connect})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	return u
}

func tcpAddr(t *testing.T, text string) net.Addr {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
