package upstream

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
)

// poolModel runs random operations on a pool, and compares it with what must be true.
type poolModel struct {
	*farm
	rand  *rand.Rand
	conns map[*engineio.Conn]bool
}

var modelHosts = []string{"a", "b", "c", "d", "e"} // shuffled by the test

func TestPoolModel(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				m := &poolModel{
					farm: newFarm(t, "a b c d e", func(c *config.Upstream) {
						if seed%2 == 1 {
							c.Health = config.UpstreamHealth{Path: "/healthz", Interval: time.Second, Timeout: time.Second}
						}
						c.HandshakeTimeout = 3 * time.Second
						c.DialTimeout = time.Second
					}),
					rand: rand.New(rand.NewPCG(seed, 1)), conns: make(map[*engineio.Conn]bool),
				}
				for range 120 {
					m.step()
					m.check()
				}
				m.settle()
			})
		})
	}
}

func (m *poolModel) step() {
	host := modelHosts[m.rand.IntN(len(modelHosts))]
	switch m.rand.IntN(10) {
	case 0, 1, 2:
		m.dialOne()
	case 3, 4:
		for c := range m.conns { // any
			c.Close()
			delete(m.conns, c)
			break
		}
	case 5:
		m.set(host, []int{0, -1, 200, 200, 503, 403}[m.rand.IntN(6)])
	case 6:
		m.locked(func() { m.fakes[host+":1"].health = []int{200, 500, -1}[m.rand.IntN(3)] })
	case 7:
		m.rand.Shuffle(len(modelHosts), func(i, j int) { modelHosts[i], modelHosts[j] = modelHosts[j], modelHosts[i] })
		var urls []string
		for _, host := range modelHosts[:1+m.rand.IntN(len(modelHosts))] {
			urls = append(urls, "http://"+host+":1")
		}
		m.SetURLs(urls)
	case 8:
		ctx, cancel := context.WithTimeout(m.t.Context(), time.Second) // a server may hang
		_, _ = m.pass(ctx, http.MethodGet, "/page", "")
		cancel()
	case 9:
		time.Sleep(time.Duration(m.rand.IntN(3000)) * time.Millisecond)
	}
	synctest.Wait()
}

// dialOne makes a handshake. It must reach a server with the fewest links of those that are up.
func (m *poolModel) dialOne() {
	fewest := -1
	for _, s := range m.Servers() {
		if s.State == Up && (fewest < 0 || s.Links < fewest) {
			fewest = s.Links
		}
	}
	var start, now int
	m.locked(func() { start = m.failovers })
	c, err := m.dial()
	if err != nil {
		return
	}
	m.conns[c] = true
	s := ServerOf(c)
	m.locked(func() { now = m.failovers })
	if now == start && fewest >= 0 && s.links != fewest+1 {
		m.t.Errorf("%v got a link and has %d, and another one had %d", s, s.links, fewest)
	}
}

// check compares what the pool says with the connections that exist.
func (m *poolModel) check() {
	m.t.Helper()
	want := make(map[string]int)
	for c := range m.conns {
		want[ServerOf(c).String()]++
	}
	got := make(map[string]int)
	for _, s := range m.Servers() {
		listed := slices.Contains(m.urls, s.URL)
		if s.Links > 0 {
			got[s.URL] = s.Links
		}
		if !listed && (s.Links == 0 || s.State != Leaving) || listed && s.State == Leaving {
			m.t.Errorf("%s is %v with %d links; listed: %v", s.URL, s.State, s.Links, listed)
		}
	}
	if !maps.Equal(got, want) {
		m.t.Errorf("links %v, want %v", got, want)
	}
}

// settle heals all servers. Then all of them are up, and clients spread.
func (m *poolModel) settle() {
	m.locked(func() {
		for _, f := range m.fakes {
			f.status, f.health = http.StatusOK, http.StatusOK
		}
	})
	for c := range m.conns {
		c.Close()
	}
	clear(m.conns)
	m.SetURLs([]string{"http://a:1", "http://b:1", "http://c:1"})
	time.Sleep(10 * time.Second) // probes that hang, and their pauses
	synctest.Wait()
	m.open(6)
	m.want("a up 2, b up 2, c up 2")
	if err := m.Ready(); err != nil {
		m.t.Error(err)
	}
}
