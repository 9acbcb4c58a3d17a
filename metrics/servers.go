package metrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// maxServers bounds the values of the label server. The links of further servers are counted
// together, as otherServers.
const (
	maxServers   = 100
	otherServers = "other"
)

// serverGauges are the gauges with a label for each server of the upstream.
type serverGauges struct {
	states *prometheus.GaugeVec // holdfast_upstream_servers
	links  *prometheus.GaugeVec // holdfast_upstream_server_links

	mu    sync.Mutex     // guards the fields below
	shown map[string]int // the values of links
}

// serverStates are the values of the label state, in the words of package upstream.
var serverStates = []string{"up", "down", "unhealthy", "leaving"}

func newServerGauges(f factory) *serverGauges {
	g := &serverGauges{
		states: f.gauges("upstream_servers", "Servers of the upstream, by state: up, down (they do not answer), unhealthy (their health checks fail) or leaving (no longer configured, but with links).", "state"),
		links:  f.gauges("upstream_server_links", "Current connections to each server of the upstream, including those being made.", "server"),
	}
	for _, state := range serverStates {
		g.states.WithLabelValues(state)
	}
	return g
}

// Server is one server of the upstream.
type Server struct {
	URL, State string
	Links      int
}

// SetUpstreamServers sets how many servers are in each state, and how many links each server has.
func (m *Metrics) SetUpstreamServers(servers []Server) {
	states := make(map[string]int)
	links := make(map[string]int)
	for _, s := range servers {
		states[s.State]++
		label := s.URL
		if _, known := links[label]; !known && len(links) >= maxServers {
			label = otherServers
		}
		links[label] += s.Links
	}
	m.servers.set(states, links)
}

func (g *serverGauges) set(states, links map[string]int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, state := range serverStates {
		g.states.WithLabelValues(state).Set(float64(states[state]))
	}
	for server, n := range links {
		g.links.WithLabelValues(server).Set(float64(n))
	}
	for server := range g.shown {
		if _, ok := links[server]; !ok {
			g.links.DeleteLabelValues(server)
		}
	}
	g.shown = links
}
