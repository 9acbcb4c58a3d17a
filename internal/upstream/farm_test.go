package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/steady"
)

func TestMain(m *testing.M) {
	steady.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/holdfast/holdfast/internal/netpoll.(*loop).run"), // lives as long as the process
	)
}

// farm is a number of servers in memory, for a synctest bubble.
type farm struct {
	*Upstream
	t *testing.T

	mu        sync.Mutex // guards the fields below
	fakes     map[string]*fake
	names     map[string][]netip.Addr // DNS; a missing name is an error
	lookups   int
	failovers int
	left      []string
}

// fake is one of the servers, at an address.
type fake struct {
	status   int // of answers to handshakes; 0 refuses connections, -1 answers nothing
	health   int // status of health checks
	requests []string
	hosts    []string
	sni      []string
	cert     *tls.Certificate
}

// newFarm returns servers at http://a:1, http://b:1 and so on, and their Upstream.
func newFarm(t *testing.T, hosts string, change func(*config.Upstream)) *farm {
	t.Helper()
	f := &farm{t: t, fakes: make(map[string]*fake), names: make(map[string][]netip.Addr)}
	cfg := config.Default().Upstream
	cfg.URL = nil
	for host := range strings.FieldsSeq(hosts) {
		cfg.URL = append(cfg.URL, "http://"+host+":1")
		f.add(host + ":1")
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	f.Upstream, err = New(cfg, Options{
		EngineIOPath: "/socket.io/", Connect: f.connect, LookUp: f.lookUp,
		FailedOver: func() { f.locked(func() { f.failovers++ }) },
		Left:       func(s *Server) { f.locked(func() { f.left = append(f.left, s.String()) }) },
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Start()
	t.Cleanup(func() {
		f.Close()
		for _, s := range f.servers {
			s.CloseIdleConnections()
		}
	})
	return f
}

func (f *farm) add(address string) {
	f.fakes[address] = &fake{status: http.StatusOK, health: http.StatusOK}
}

func (f *farm) locked(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
}

// set changes how a server answers handshakes.
func (f *farm) set(host string, status int) { f.locked(func() { f.fakes[host+":1"].status = status }) }

// requests returns how many requests a server got whose line contains a text.
func (f *farm) requests(host, text string) (n int) {
	f.locked(func() {
		for _, r := range f.fakes[host+":1"].requests {
			if strings.Contains(r, text) {
				n++
			}
		}
	})
	return n
}

func (f *farm) lookUp(_ context.Context, host string) ([]netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lookups++
	addrs, ok := f.names[host]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return addrs, nil
}

func (f *farm) connect(ctx context.Context, _, address string) (net.Conn, error) {
	f.mu.Lock()
	s := f.fakes[address]
	refuses := s == nil || s.status == 0
	f.mu.Unlock()
	if refuses {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	client, server := net.Pipe()
	go f.serve(s, server) // ends when the client closes its end
	return client, ctx.Err()
}

// serve answers requests.
func (f *farm) serve(s *fake, conn net.Conn) {
	defer conn.Close()
	if s.cert != nil {
		t := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*s.cert}})
		if t.HandshakeContext(context.Background()) != nil {
			return
		}
		f.locked(func() { s.sni = append(s.sni, t.ConnectionState().ServerName) })
		conn = t
	}
	for br := bufio.NewReader(conn); ; {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		var status int
		f.locked(func() {
			s.requests = append(s.requests, r.Method+" "+r.RequestURI+" "+string(body))
			s.hosts = append(s.hosts, r.Host)
			status = s.status
			if strings.HasPrefix(r.RequestURI, "/healthz") {
				status = s.health
			}
		})
		if status < 0 {
			_, _ = io.Copy(io.Discard, conn)
			return
		}
		answer := "ok"
		switch q := r.URL.Query(); {
		case q.Get("sid") == "holdfast-probe" && status == http.StatusOK:
			status, answer = http.StatusBadRequest, `{"code":1,"message":"Session ID unknown"}`
		case q.Get("transport") == "polling" && q.Get("sid") == "":
			answer = `0{"sid":"s","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`
		}
		resp := &http.Response{
			StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Body: io.NopCloser(strings.NewReader(answer)), ContentLength: int64(len(answer)), Close: r.Close,
		}
		if resp.Write(conn) != nil || r.Close {
			return
		}
	}
}

// dial makes a handshake within upstream.handshake_timeout.
func (f *farm) dial() (*engineio.Conn, error) {
	ctx, cancel := context.WithTimeout(f.t.Context(), f.handshakeTimeout)
	defer cancel()
	c, err := f.Dial(ctx, engineio.Request{Path: "/socket.io/", RawQuery: "EIO=4&transport=polling", Host: "chat.example", Header: http.Header{}})
	if err == nil {
		f.t.Cleanup(c.Close)
	}
	return c, err
}

// open makes handshakes that must succeed.
func (f *farm) open(n int) []*engineio.Conn {
	f.t.Helper()
	conns := make([]*engineio.Conn, n)
	for i := range conns {
		var err error
		if conns[i], err = f.dial(); err != nil {
			f.t.Fatal(err)
		}
	}
	return conns
}

// want checks the servers: "http://a:1 up 3, http://b:1 down 0".
func (f *farm) want(want string) {
	f.t.Helper()
	var got []string
	for _, s := range f.Servers() {
		got = append(got, strings.TrimSuffix(strings.TrimPrefix(s.URL, "http://"), ":1")+" "+s.State.String()+" "+string(rune('0'+s.Links)))
	}
	if text := strings.Join(got, ", "); text != want {
		f.t.Errorf("servers: %s\nwant: %s", text, want)
	}
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, fn func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fn(t)
		time.Sleep(time.Second) // engineio may still watch a server's first idle connection
	})
}

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// soon waits for what happens within a probe's pause.
func soon() {
	time.Sleep(2 * probeInterval)
	synctest.Wait()
}
