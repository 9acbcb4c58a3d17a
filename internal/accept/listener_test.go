package accept

import (
	"net"
	"net/http"
	"net/netip"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/internal/netpoll"
	"github.com/holdfast/holdfast/internal/steady"
	"github.com/holdfast/holdfast/metrics"
)

// loopIsOff runs the tests with the event loop switched off. "make network" runs them both ways.
var loopIsOff = os.Getenv("TEST_EVENT_LOOP") == "off"

func TestMain(m *testing.M) {
	if err := netpoll.Setup(!loopIsOff); err != nil {
		panic(err)
	}
	steady.VerifyTestMain(m,
		// Event loops live as long as the process.
		goleak.IgnoreAnyFunction("github.com/holdfast/holdfast/internal/netpoll.(*loop).run"),
	)
}

// listen returns a Listener on a free port whose connections all go to net/http.
func listen(t *testing.T, tls bool, limits Limits) (*Listener, chan metrics.RefusalLimit) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan metrics.RefusalLimit, 16)
	limits.HeadTimeout, limits.HeadBytes, limits.HandshakeTimeout = time.Minute, 64<<10, time.Minute
	l := Listen(ln, Options{
		TLS:      tls,
		Limits:   func() Limits { return limits },
		Match:    func(*http.Request) http.HandlerFunc { return nil },
		Begin:    func() func() { return func() {} },
		Refused:  func(reached metrics.RefusalLimit, _ netip.Addr) { refused <- reached },
		Failed:   func(err error) { t.Error(err) },
		Panicked: func(v any) { t.Error(v) },
	})
	t.Cleanup(func() { _ = l.Close() }) // closed once, whatever it returns
	return l, refused
}

func TestListenerLimitsConnections(t *testing.T) {
	exempt := func(netip.Addr) bool { return false }
	for _, tt := range []struct {
		name   string
		limits Limits
		want   metrics.RefusalLimit
	}{
		{"in all", Limits{MaxConnections: 2, Exempt: exempt}, metrics.Connections},
		{"per address", Limits{MaxConnectionsPerAddress: 2, Exempt: exempt}, metrics.ConnectionsPerAddress},
	} {
		for _, tls := range []bool{false, true} {
			t.Run(tt.name, func(t *testing.T) {
				l, refused := listen(t, tls, tt.limits)
				accepted := make(chan net.Conn, 16)
				go func() {
					for {
						c, err := l.Accept()
						if err != nil {
							return
						}
						accepted <- c
					}
				}()
				dial := func() {
					c, err := net.Dial("tcp", l.Addr().String())
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { c.Close() })
					if _, err := c.Write([]byte("POST")); err != nil {
						t.Fatal(err)
					}
				}
				dial()
				dial()
				ours := []net.Conn{<-accepted, <-accepted}
				if got := l.Connections(); got != 2 {
					t.Errorf("%d connections are counted, want 2", got)
				}
				dial()
				if got := <-refused; got != tt.want {
					t.Errorf("refused because of %q, want %q", got, tt.want)
				}
				for _, c := range ours {
					c.Close()
					c.Close() // a second Close must not count
				}
				l.mu.Lock()
				defer l.mu.Unlock()
				if l.total != 0 || len(l.perAddress) != 0 {
					t.Errorf("after all have closed, %d connections of %d addresses are counted", l.total, len(l.perAddress))
				}
			})
		}
	}
}

func TestExemptAddressesHaveNoLimit(t *testing.T) {
	l, _ := listen(t, true, Limits{MaxConnectionsPerAddress: 1, Exempt: func(a netip.Addr) bool { return a.IsLoopback() }})
	for range 3 {
		if reached := l.count(netip.MustParseAddr("127.0.0.1")); reached != "" {
			t.Errorf("refused because of %q", reached)
		}
	}
}
