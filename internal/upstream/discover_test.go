package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/internal/config"
)

// resolve makes DNS answer with addresses, at each of which there is a server.
func (f *farm) resolve(name string, addrs ...string) {
	f.locked(func() {
		delete(f.names, name)
		for _, a := range addrs {
			ip := netip.MustParseAddr(a)
			f.names[name] = append(f.names[name], ip)
			if address := netip.AddrPortFrom(ip.Unmap(), 1).String(); f.fakes[address] == nil {
				f.add(address)
			}
		}
	})
}

func discovers(c *config.Upstream) { c.Discover = config.DNSDiscovery }

// nextLookup waits until DNS has been asked again.
func nextLookup() {
	time.Sleep(lookupInterval)
	synctest.Wait()
}

func TestDiscovery(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "app", discovers)
		synctest.Wait() // the first lookup fails
		if _, err := f.dial(); err == nil || !strings.Contains(err.Error(), "no server is known: lookup app: no such host") {
			t.Errorf("got %v", err)
		}
		if f.Ready() == nil {
			t.Error("ready without a server")
		}
		f.resolve("app", "10.0.0.2", "10.0.0.1", "::ffff:10.0.0.1", "fd00::1")
		nextLookup()
		f.want("10.0.0.1 up 0, 10.0.0.2 up 0, [fd00::1] up 0")
		f.open(3)
		f.resolve("app", "10.0.0.2", "10.0.0.3")
		nextLookup()
		f.want("10.0.0.2 up 1, 10.0.0.3 up 0, 10.0.0.1 leaving 1, [fd00::1] leaving 1")
		f.resolve("app") // no answer
		nextLookup()
		f.want("10.0.0.2 up 1, 10.0.0.3 up 0, 10.0.0.1 leaving 1, [fd00::1] leaving 1")
		if err := f.Ready(); err != nil {
			t.Errorf("the last answer should stay in force: %v", err)
		}
		lookups := func() (n int) {
			f.locked(func() { n = f.lookups })
			return n
		}
		before := lookups()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := lookups() - before; n != 12 {
			t.Errorf("%d lookups in a minute", n)
		}
	})
}

func TestHandshakesWaitForTheFirstLookup(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := &farm{t: t, fakes: make(map[string]*fake), names: make(map[string][]netip.Addr)}
		f.resolve("app", "10.0.0.1")
		cfg := config.Default().Upstream
		cfg.URL, cfg.Discover = config.URLs{"http://app:1"}, config.DNSDiscovery
		answer := make(chan struct{})
		u, err := New(cfg, Options{Connect: f.connect, LookUp: func(ctx context.Context, host string) ([]netip.Addr, error) {
			<-answer
			return f.lookUp(ctx, host)
		}})
		if err != nil {
			t.Fatal(err)
		}
		f.Upstream = u
		f.Start()
		defer f.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.awaitLookup(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		time.AfterFunc(time.Second, func() { close(answer) })
		f.open(1)
		f.want("10.0.0.1 up 1")
	})
}

func TestDiscoveryOfSeveralNames(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "app", func(c *config.Upstream) {
			discovers(c)
			c.URL = config.URLs{"http://app:1", "http://10.0.0.9:1", "http://old:1"}
		})
		f.resolve("app", "10.0.0.1")
		f.resolve("old", "10.0.0.9", "10.0.0.8") // one of them is listed already
		nextLookup()
		f.want("10.0.0.1 up 0, 10.0.0.9 up 0, 10.0.0.8 up 0")
		f.resolve("app")
		f.resolve("old", "10.0.0.7")
		nextLookup()
		f.want("10.0.0.1 up 0, 10.0.0.9 up 0, 10.0.0.7 up 0")

		// A reload asks about new names immediately.
		f.resolve("new", "10.0.0.6")
		f.SetURLs([]string{"http://new:1"})
		synctest.Wait()
		f.want("10.0.0.6 up 0")
	})
}

func TestCheck(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "app", func(c *config.Upstream) {
			discovers(c)
			c.URL = config.URLs{"http://app:1", "http://10.0.0.4:1", "http://unknown:1"}
			c.Health.Path = "/healthz"
		})
		f.resolve("app", "10.0.0.1", "10.0.0.2", "10.0.0.3")
		f.fakes["10.0.0.1:1"].health = http.StatusNotFound
		f.fakes["10.0.0.2:1"].status = http.StatusBadGateway
		u, err := New(config.Upstream{
			URL: f.urls, Discover: config.DNSDiscovery, DialTimeout: time.Second, Health: f.health, MaxConcurrentDials: 1,
		}, Options{EngineIOPath: "/socket.io/", Connect: f.connect, LookUp: f.lookUp})
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		results, err := checkAll(t.Context(), u)
		if err == nil || !strings.Contains(err.Error(), "lookup unknown: no such host") {
			t.Errorf("got %v", err)
		}
		var got []string
		for _, r := range results {
			got = append(got, fmt.Sprintf("%s %v", r.URL, r.Err))
		}
		if text := strings.Join(got, "\n"); text != "http://10.0.0.1:1 health check: status 404\nhttp://10.0.0.2:1 status 502\n"+
			"http://10.0.0.3:1 <nil>\nhttp://10.0.0.4:1 dial tcp: connection refused" {
			t.Errorf("got\n%s", text)
		}
	})
}

func TestSingleServersAreNotChecked(t *testing.T) {
	results, err := Check(t.Context(), config.Default())
	if results != nil || err != nil {
		t.Errorf("got %v, %v", results, err)
	}
}
