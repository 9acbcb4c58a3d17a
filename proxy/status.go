package proxy

import (
	"time"

	"github.com/holdfast/holdfast/internal/admin/status"
	"github.com/holdfast/holdfast/metrics"
)

// RefreshMetrics sets the gauges. The caller calls it before the metrics are collected.
func (s *Server) RefreshMetrics() {
	live, parked := s.registry.Counts()
	s.metrics.Sessions.Live.Set(float64(live))
	s.metrics.Sessions.Parked.Set(float64(parked))
	s.metrics.BufferedBytes.Set(float64(s.budget.Bytes()))
	s.metrics.BufferedPackets.Set(float64(s.budget.Packets()))
	clients, links := s.conns.transports()
	s.metrics.Clients.Polling.Set(float64(clients.Polling))
	s.metrics.Clients.WebSocket.Set(float64(clients.WebSocket))
	s.metrics.Links.Polling.Set(float64(links.Polling))
	s.metrics.Links.WebSocket.Set(float64(links.WebSocket))
	s.refreshServers()
	s.replicas.refreshMetrics()
}

// refreshServers sets the gauges of the upstream's servers.
func (s *Server) refreshServers() {
	var servers []metrics.Server
	for _, r := range s.upstream.Servers() {
		servers = append(servers, metrics.Server{URL: r.URL, State: r.State.String(), Links: r.Links})
	}
	s.metrics.SetUpstreamServers(servers)
}

// listedParked and listedServers are how many parked sessions and servers a status report lists.
const (
	listedParked  = 100
	listedServers = 100
)

// Status reports the current state. It leaves Holdfast.Version empty.
func (s *Server) Status() status.Report {
	r := s.recorder.Report()
	if s.phase.stopping() {
		r.Holdfast.State = status.Draining
	}
	r.Sessions.Live, r.Sessions.Parked = s.registry.Counts()
	r.Sessions.MaxParked = s.settings().Recovery.MaxParkedSessions
	r.Clients, r.Links = s.conns.transports()
	r.Buffer = status.Buffer{Packets: s.budget.Packets(), Bytes: s.budget.Bytes(), BudgetBytes: s.budget.Limit()}
	r.Upstream.URL = s.settings().Upstream.URL.String()
	now := time.Now()
	servers := s.upstream.Servers()
	for _, server := range servers[:min(len(servers), listedServers)] {
		r.Upstream.Servers = append(r.Upstream.Servers, status.Server{
			URL: server.URL, State: server.State.String(), StateSeconds: max(0, now.Sub(server.Since).Seconds()),
			Links: server.Links, Error: status.ShortError(server.Error),
		})
	}
	s.replicas.report(&r.Cluster, now)
	for _, p := range s.registry.OldestParked(listedParked) {
		r.Parked = append(r.Parked, status.Parked{
			Namespace:        status.ShortNamespace(p.Namespace),
			Reason:           p.Reason,
			AgeSeconds:       max(0, now.Sub(p.Since).Seconds()),
			ExpiresInSeconds: max(0, p.Expires.Sub(now).Seconds()),
			Packets:          p.Packets,
			Bytes:            p.Bytes,
		})
	}
	return r
}
