package upstream

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/internal/config"
)

// get passes a request through and returns its answer.
func (f *farm) pass(ctx context.Context, method, path, body string) (string, error) {
	f.t.Helper()
	r := httptest.NewRequestWithContext(ctx, method, Base().String()+path, strings.NewReader(body))
	r.RequestURI = ""
	if body == "" {
		r.Body = nil
	}
	resp, err := f.RoundTripper().RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return string(answer), err
}

func TestRequestsPassToServersThatAreUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "a b c", nil)
		f.set("b", 0)
		for i := range 60 {
			if answer, err := f.pass(t.Context(), http.MethodPost, "/page", "hello"); err != nil || answer != "ok" {
				t.Fatalf("request %d: %q, %v", i, answer, err)
			}
		}
		f.want("a up 0, b down 0, c up 0")
		if f.failovers != 1 {
			t.Errorf("%d failovers", f.failovers)
		}
		a, c := f.requests("a", "POST /page hello"), f.requests("c", "POST /page hello")
		if a+c != 60 || a < 10 || c < 10 {
			t.Errorf("%d and %d requests", a, c)
		}
		f.set("a", 0)
		f.set("c", 0)
		for _, s := range f.list {
			s.CloseIdleConnections()
		}
		if _, err := f.pass(t.Context(), http.MethodGet, "/", ""); !isRefused(err) {
			t.Errorf("got %v", err)
		}
	})
}

// A request that a server has read must not also reach another one.
func TestRequestsAreNotRepeated(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "a b", nil)
		f.set("a", http.StatusBadGateway)
		f.set("b", http.StatusBadGateway)
		if _, err := f.pass(t.Context(), http.MethodPost, "/", "x"); err != nil {
			t.Error(err)
		}
		if n := f.requests("a", "POST") + f.requests("b", "POST"); n != 1 {
			t.Errorf("the request was made %d times", n)
		}
	})
}

func TestClientsStayWithTheirServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "a b c", nil)
		client := netip.MustParseAddr("192.0.2.7")
		ctx := WithClient(t.Context(), client)
		home := func() string {
			s, _, err := (&roundTripper{u: f.Upstream}).route(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			return s.target.address
		}
		first := home()
		for range 20 {
			if got := home(); got != first {
				t.Fatalf("from %s to %s", first, got)
			}
		}
		f.locked(func() { f.fakes[first].status = 0 })
		if _, err := f.pass(ctx, http.MethodGet, "/socket.io/?EIO=3&transport=polling&sid=x", ""); err != nil {
			t.Errorf("no failover: %v", err)
		}
		if second := home(); second == first {
			t.Error("the client stays with a server that is down")
		}
		f.locked(func() { f.fakes[first].status = http.StatusOK })
		soon()
		if got := home(); got != first {
			t.Errorf("it is back at %s, not %s", got, first)
		}
		unix := WithClient(t.Context(), netip.Addr{}) // of a client over a Unix socket
		if _, err := f.pass(unix, http.MethodGet, "/", ""); err != nil {
			t.Error(err)
		}
	})
}

// Each server gets its share of the addresses, and a server that leaves moves only its own.
func TestRendezvous(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "a b c d", nil)
		shares := make(map[string]int)
		ip := netip.MustParseAddr("10.0.0.0")
		for range 4000 {
			ip = ip.Next()
			best := func(list []*Server) *Server {
				return slices.MaxFunc(list, func(a, b *Server) int { return compareRank(ip, a, b) })
			}
			all, without := best(f.list), best(f.list[1:])
			shares[all.String()]++
			if all != f.list[0] && all != without {
				t.Fatalf("%v moves from %v to %v because of another server", ip, all, without)
			}
		}
		for _, s := range f.list {
			if n := shares[s.String()]; n < 850 || n > 1150 {
				t.Errorf("%v has %d of 4000", s, n)
			}
		}
	})
}

// Each server is asked for the certificate of the host in its URL.
func TestServerNames(t *testing.T) {
	for _, configured := range []string{"", "example.com"} {
		bubble(t, func(t *testing.T) {
			f := newFarm(t, "a", func(c *config.Upstream) {
				c.URL = config.URLs{"https://a.example", "https://b.example:8443", "http://c:1"}
				c.TLS = config.UpstreamTLS{ServerName: configured, InsecureSkipVerify: true}
			})
			cert := certificate()
			for _, address := range []string{"a.example:443", "b.example:8443"} {
				f.add(address)
				f.fakes[address].cert = cert
			}
			f.add("c:1")
			f.open(3)
			for address, want := range map[string]string{"a.example:443": "a.example", "b.example:8443": "b.example", "c:1": ""} {
				if configured != "" && want != "" {
					want = configured
				}
				s := f.fakes[address]
				if want != "" && (len(s.sni) != 1 || s.sni[0] != want) || want == "" && len(s.sni) != 0 {
					t.Errorf("%s was asked for %q, want %q", address, s.sni, want)
				}
				if len(s.hosts) != 1 || s.hosts[0] != "chat.example" {
					t.Errorf("%s got the Host %q, want the client's", address, s.hosts)
				}
			}
		})
	}
}

func certificate() *tls.Certificate {
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	return &s.TLS.Certificates[0]
}

func TestBadCAFile(t *testing.T) {
	cfg := config.Default().Upstream
	cfg.TLS.CAFile = "absent.pem"
	if _, err := New(cfg, Options{}); err == nil || !strings.Contains(err.Error(), "upstream.tls.ca_file: ") {
		t.Errorf("got %v", err)
	}
}
