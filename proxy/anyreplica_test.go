package proxy

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/siotest/sioserver"
)

// TestPollingThroughAnyReplica has pages that poll, each of whose requests reaches any of three
// replicas. Requests end at any moment, or are half closed, and the connections between replicas
// break and hang. What a page sends over one of its connections must arrive in order and without a
// gap: only the end may be missing.
func TestPollingThroughAnyReplica(t *testing.T) {
	if os.Getenv("HOLDFAST_LONG") != "1" {
		t.Skip("only with HOLDFAST_LONG=1: see make long")
	}
	app := sioserver.New(sioserver.Options{PingInterval: 300 * time.Millisecond, PingTimeout: 2 * time.Second})
	up := httptest.NewServer(app)
	t.Cleanup(up.Close)
	t.Cleanup(app.Close)
	sent := &sentEvents{epochs: make(map[epochName]*sentEpoch)}
	for _, namespace := range []string{"/", "/admin"} {
		app.OnConnect(namespace, func(s *sioserver.Socket) error {
			s.On("u", func(args []json.RawMessage, _ func(...any)) {
				name, number := epochName{space: namespace}, 0
				if json.Unmarshal(args[0], &name.page) != nil || json.Unmarshal(args[1], &number) != nil || json.Unmarshal(args[2], &name.epoch) != nil {
					t.Errorf("the application got %s", args)
				}
				sent.arrived(name, number)
				s.Emit("n", number)
			})
			return nil
		})
	}
	rigs, network := newPipedReplicas(t, replicas3, func(c *config.Config) {
		c.Upstream.URL = config.URLs{up.URL}
		c.Recovery.MaxDisconnectionDuration = 10 * time.Second
	})
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var pages []*pollingPage
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for i := range 12 {
		p := newPollingPage(fmt.Sprint("page", i), rigs, rand.New(rand.NewPCG(seed, uint64(i))), sent)
		pages = append(pages, p)
		wg.Go(func() { p.run(stop) })
	}
	random := rand.New(rand.NewPCG(seed, 999))
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && len(sent.gaps()) == 0; {
		for _, p := range pages {
			p.emit([]string{"/", "/admin"}[random.IntN(2)])
		}
		if random.IntN(40) == 0 {
			breakAny(network, random)
		}
		time.Sleep(20 * time.Millisecond) // the pages' pace
	}
	network.heal()
	close(stop)
	wg.Wait()
	for _, gap := range sent.gaps() {
		t.Error(gap.what)
		for _, p := range pages {
			if p.name == gap.page {
				t.Log(p.trace())
			}
		}
	}
	if n := sent.whole(); n < 50 {
		t.Errorf("events arrived over %d connections: nothing was tested", n)
	}
}

// breakAny cuts connections between two replicas, or makes them hang for a while.
func breakAny(network *peerNetwork, random *rand.Rand) {
	a, b := random.IntN(replicas3), random.IntN(replicas3)
	if random.IntN(3) > 0 {
		network.cut(a, b)
		return
	}
	network.hole(a, b, true)
	network.hole(b, a, random.IntN(2) == 0)
	network.cut(a, b)
	time.AfterFunc(time.Duration(random.IntN(1500))*time.Millisecond, network.heal)
}

// sentEvents records what pages send, and what arrives. It is safe for concurrent use.
type sentEvents struct {
	mu     sync.Mutex // guards the fields below
	epochs map[epochName]*sentEpoch
	found  []gap
}

// epochName names what a page sends in a namespace over one connection.
type epochName struct {
	page, space string
	epoch       int
}

type sentEpoch struct{ next int } // the number that must arrive next

type gap struct{ page, what string }

// sent notes the next event of an epoch.
func (e *sentEvents) sent(name epochName, number int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.epochs[name] == nil {
		e.epochs[name] = &sentEpoch{number}
	}
}

func (e *sentEvents) arrived(name epochName, number int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := e.epochs[name]
	if at == nil { // nothing was sent
		at = &sentEpoch{}
		e.epochs[name] = at
	}
	if number != at.next {
		e.found = append(e.found, gap{name.page, fmt.Sprintf("%+v: event %d arrived, want %d", name, number, at.next)})
	}
	at.next = number + 1
}

func (e *sentEvents) gaps() []gap {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.found
}

// whole returns how many epochs there were.
func (e *sentEvents) whole() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.epochs)
}
