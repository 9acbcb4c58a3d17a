package upstream

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
)

func TestLinksSpread(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "a b c", nil)
		conns := f.open(9)
		f.want("a up 3, b up 3, c up 3")
		ended := 0
		for _, c := range conns {
			if ServerOf(c).String() == "http://b:1" && ended < 2 {
				c.Close()
				c.Close() // counts once
				ended++
			}
		}
		f.want("a up 3, b up 1, c up 3")
		f.open(2)
		f.want("a up 3, b up 3, c up 3")
	})
}

func TestConcurrentHandshakesSpread(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "a b c", nil)
		var wg sync.WaitGroup
		for range 24 {
			wg.Go(func() { f.open(1) })
		}
		wg.Wait()
		f.want("a up 8, b up 8, c up 8")
	})
}

func TestTiesAreDecidedAtRandom(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "a b c", nil)
		for range 300 {
			f.open(1)[0].Close()
		}
		for _, host := range []string{"a", "b", "c"} {
			if n := f.requests(host, "GET"); n < 60 || n > 140 {
				t.Errorf("%s got %d of 300 handshakes", host, n)
			}
		}
	})
}

func TestFailoverAtConnect(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "a b", nil)
		f.set("a", 0)
		start := time.Now()
		f.open(4)
		if took := time.Since(start); took > 0 {
			t.Errorf("failover took %v", took)
		}
		f.want("a down 0, b up 4")
		if f.failovers != 1 {
			t.Errorf("%d failovers, want 1: the others should not try it", f.failovers)
		}
		if err := f.Ready(); err != nil {
			t.Errorf("one is up, but: %v", err)
		}

		// Its return is detected without a client that tries it.
		f.set("a", http.StatusOK)
		soon()
		f.want("a up 0, b up 4")
		f.open(4)
		f.want("a up 4, b up 4")
		if n := f.requests("a", "holdfast-probe"); n != 1 {
			t.Errorf("%d probes of a server that answered the first", n)
		}
	})
}

func TestThreeServersAreTriedAtMost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "a b c d e", nil)
		for _, host := range []string{"a", "b", "c", "d", "e"} {
			f.set(host, 0)
		}
		if _, err := f.dial(); !isRefused(err) {
			t.Errorf("got %v", err)
		}
		down := 0
		for _, s := range f.Servers() {
			if s.State == Down {
				down++
			}
		}
		if down != 3 || f.failovers != 2 {
			t.Errorf("%d servers tried, %d failovers; want 3 and 2", down, f.failovers)
		}
	})
}

func TestRefusalIsFinal(t *testing.T) {
	for status, final := range map[int]bool{400: true, 401: true, 403: true, 404: true, 500: true, 502: false, 503: false, 504: false} {
		bubble(t, func(t *testing.T) {
			f := newFarm(t, "a b", nil)
			f.set("a", status)
			f.set("b", status)
			_, err := f.dial()
			var refusal *engineio.RejectedError
			if !errors.As(err, &refusal) || refusal.Status != status {
				t.Errorf("%d: got %v", status, err)
			}
			if n := f.requests("a", "GET") + f.requests("b", "GET"); n == 2 == final {
				t.Errorf("%d: %d servers were asked", status, n)
			}
		})
	}
}

// A server that accepts connections and hangs must not attract clients, although it has the fewest
// links.
func TestHangingServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "a b", nil)
		f.open(4)
		f.set("a", -1)
		for range maxUnansweredUp { // clients that find out
			for {
				if _, err := f.dial(); err != nil {
					break
				}
			}
		}
		for _, s := range f.Servers() {
			if s.URL == "http://a:1" && s.State != Down {
				t.Errorf("a is %v after %d handshakes without an answer", s.State, maxUnansweredUp)
			}
		}
		start := time.Now()
		f.open(5)
		if took := time.Since(start); took > 0 {
			t.Errorf("the next clients waited %v", took)
		}
		f.set("a", http.StatusOK)
		time.Sleep(f.dialTimeout) // the probe in progress
		soon()
		for _, s := range f.Servers() {
			if s.State != Up {
				t.Errorf("%s is %v, although it answers: %s", s.URL, s.State, s.Error)
			}
		}
	})
}

func TestOneClientWithoutAnAnswerIsNoOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "a b", nil)
		f.open(2)
		f.set("a", -1)
		f.set("b", -1)
		_, _ = f.dial()
		f.set("a", http.StatusOK)
		f.set("b", http.StatusOK)
		f.want("a up 1, b up 1")
	})
}

func TestNoServerIsUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "a b", nil)
		f.set("a", 0)
		f.set("b", 0)
		for range 3 {
			if _, err := f.dial(); !isRefused(err) {
				t.Errorf("got %v", err)
			}
		}
		f.want("a down 0, b down 0")
		if err := f.Ready(); err == nil || !strings.Contains(err.Error(), "none of 2 servers is up") {
			t.Errorf("ready: %v", err)
		}
		// Clients do not depend on probes: one of them may be first.
		f.set("a", http.StatusOK)
		f.set("b", http.StatusOK)
		if _, err := f.dial(); err != nil {
			t.Errorf("a server is back, but: %v", err)
		}
		if err := f.Ready(); err != nil {
			t.Error(err)
		}
	})
}

// A single server is asked only when a client needs it.
func TestSingleServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "a", nil)
		f.set("a", 0)
		for range 3 {
			if _, err := f.dial(); !isRefused(err) {
				t.Errorf("got %v", err)
			}
		}
		f.want("a down 0")
		if err := f.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
		time.Sleep(time.Minute)
		f.set("a", http.StatusOK)
		if _, err := f.dial(); err != nil {
			t.Error(err)
		}
		f.want("a up 1")
		if n := f.requests("a", ""); n != 1 {
			t.Errorf("%d requests, want the handshake only", n)
		}
	})
}

func TestHealthChecks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "a b", func(c *config.Upstream) {
			c.Health = config.UpstreamHealth{Path: "/healthz?deep=1", Interval: 3 * time.Second, Timeout: time.Second}
		})
		f.open(2)
		synctest.Wait()
		check := func(host string, status int) {
			f.locked(func() { f.fakes[host+":1"].health = status })
			time.Sleep(3 * time.Second)
			synctest.Wait()
		}
		check("a", http.StatusServiceUnavailable)
		f.want("a up 1, b up 1") // one failure is not enough
		check("a", http.StatusServiceUnavailable)
		f.want("a unhealthy 1, b up 1") // its link stays
		f.open(2)
		f.want("a unhealthy 1, b up 3")
		check("b", -1) // no answer is a failure, too
		time.Sleep(time.Second)
		check("b", -1)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		f.want("a unhealthy 1, b unhealthy 3")
		if _, err := f.dial(); err == nil || !strings.Contains(err.Error(), "none of 2 servers is up") {
			t.Errorf("got %v", err)
		}
		if f.Ready() == nil {
			t.Error("ready, although no server is up")
		}
		if answer, err := f.pass(t.Context(), http.MethodGet, "/maintenance", ""); err != nil || answer != "ok" {
			t.Errorf("pages should still pass through: %q, %v", answer, err)
		}
		check("a", http.StatusFound)
		f.want("a up 1, b unhealthy 3")
		if f.requests("a", "GET /healthz?deep=1") < 4 {
			t.Error("the path is not that of the configuration")
		}
	})
}

func TestServersComeAndGo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "a b", nil)
		conns := f.open(4)
		f.add("c:1")
		f.SetURLs([]string{"http://c:1", "http://b:1"})
		f.want("c up 0, b up 2, a leaving 2")
		if len(f.left) != 1 || f.left[0] != "http://a:1" {
			t.Errorf("left: %q", f.left)
		}
		f.open(4)
		f.want("c up 3, b up 3, a leaving 2")
		last := 0
		for _, c := range conns {
			if ServerOf(c).String() == "http://a:1" {
				c.Close()
				last++
				if last == 1 {
					f.want("c up 3, b up 3, a leaving 1")
				}
			}
		}
		f.want("c up 3, b up 3")

		// A server that returns while its links exist keeps them.
		f.SetURLs([]string{"http://c:1"})
		f.want("c up 3, b leaving 3")
		f.SetURLs([]string{"http://c:1", "http://b:1"})
		f.want("c up 3, b up 3")
	})
}

// One server may become several, and none of them may be left without probes.
func TestProbesBeginWithTheSecondServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "a", nil)
		f.set("a", 0)
		_, _ = f.dial()
		f.add("b:1")
		f.SetURLs([]string{"http://a:1", "http://b:1"})
		f.want("a down 0, b up 0")
		f.set("a", http.StatusOK)
		soon()
		f.want("a up 0, b up 0")
	})
}

// What is known about one server says nothing about another.
func TestServersAreIndependent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFarm(t, "a b", nil)
		a, b := f.list[0], f.list[1]
		a.breaker.Failure(errDown)
		for range maxUnanswered {
			a.throttle.Done(&engineio.RejectedError{Status: http.StatusBadGateway})
		}
		if b.breaker.Failing() != nil || b.throttle.Active() {
			t.Error("the failures of one server count for another")
		}
		if a.transport == b.transport || a.slots == b.slots || a.dialer == b.dialer {
			t.Error("servers share what they should not")
		}
	})
}
