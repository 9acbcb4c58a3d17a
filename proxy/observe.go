package proxy

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/admin/status"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/internal/upstream"
	"github.com/holdfast/holdfast/metrics"
	"github.com/holdfast/holdfast/session"
)

// Session events are reported in three places: metrics, log and status page. Each kind of event has one
// function here that reports to all three, so that all use the same word for the reason.

// recovered reports that a client got its session back.
func (s *Server) recovered(c *client, namespace string, why reason.Reason, r session.Resumption) {
	s.metrics.Recovered(why)
	s.metrics.DisconnectionDuration.Observe(r.Away.Seconds())
	s.recorder.Recovered(status.Recovery{
		Client: c.seq, Namespace: namespace, Reason: why, Missed: r.Missed, AwaySeconds: r.Away.Seconds(),
	})
	s.log.Info("recovered", "client", c.seq, "namespace", namespace, "reason", string(why),
		"missed", r.Missed, "away", r.Away.Round(time.Millisecond))
}

// notRecovered reports that a client presented a pid and did not get its session back.
func (s *Server) notRecovered(c *client, namespace string, why reason.Reason) {
	s.metrics.RecoveryFailed(why)
	s.recorder.Failed(status.Failure{Client: c.seq, Namespace: namespace, Reason: why})
	attrs := []any{"client", c.seq, "namespace", namespace, "reason", string(why)}
	if why == reason.Limit { // a client can cause this at any rate
		s.limitedLog.Log(slog.LevelWarn, "", "not recovered", append(attrs, "address", c.address.String())...)
		return
	}
	s.log.Info("not recovered", attrs...)
}

// dialled reports how a handshake with a server of the upstream ended.
func (s *Server) dialled(from *upstream.Server, err error, took time.Duration) {
	var rejected *engineio.RejectedError
	switch {
	case err == nil:
		s.metrics.Dials.OK.Inc()
		s.recorder.Dialled(status.DialOK, nil)
	case errors.As(err, &rejected):
		s.metrics.Dials.Rejected.Inc()
		s.recorder.Dialled(status.DialRejected, nil)
	case errors.Is(err, context.DeadlineExceeded):
		s.metrics.Dials.Timeout.Inc()
		s.cache.forget(from)
		s.recorder.Dialled(status.DialTimeout, err)
		return
	default:
		s.metrics.Dials.Error.Inc()
		if !errors.Is(err, context.Canceled) { // a client that is gone is not the upstream's fault
			s.cache.forget(from)
			s.recorder.Dialled(status.DialError, err)
		}
		return
	}
	s.metrics.DialDuration.Observe(took.Seconds())
}

// upgradeFailed reports why a link stays with polling.
func (s *Server) upgradeFailed(err error) {
	s.limitedLog.Log(slog.LevelWarn, "", "a link stays with long-polling: its upgrade to WebSocket failed", "error", err)
}

// observer is the Server as a session.Observer. It reports session events to metrics, log and status page.
type observer Server

// Parked implements session.Observer.
func (o *observer) Parked(s *session.Session, why reason.Reason) {
	o.metrics.Parked(why)
	o.log.Info("session parked", "namespace", s.Namespace(), "reason", why)
}

// Closed implements session.Observer.
func (o *observer) Closed(s *session.Session, why reason.Reason, was session.State, buffered int) {
	o.metrics.SessionClosed(why)
	level := slog.LevelDebug
	if was == session.Parked || why == reason.UpstreamLost {
		level = slog.LevelInfo
	}
	o.log.Log(context.Background(), level, "session closed",
		"namespace", s.Namespace(), "reason", string(why), "was", was.String(), "packets", buffered)
}

// transports counts clients and links by their transport.
func (s *Server) transports() (clients, links status.Transports) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clients {
		count(&clients, c.websocket.Load())
	}
	for l := range s.links {
		count(&links, l.conn.Transport() == "websocket")
	}
	return clients, links
}

func count(t *status.Transports, websocket bool) {
	if websocket {
		t.WebSocket++
	} else {
		t.Polling++
	}
}

// RefreshMetrics sets the gauges. The caller calls it before the metrics are collected.
func (s *Server) RefreshMetrics() {
	live, parked := s.registry.Counts()
	s.metrics.Sessions.Live.Set(float64(live))
	s.metrics.Sessions.Parked.Set(float64(parked))
	s.metrics.BufferedBytes.Set(float64(s.budget.Bytes()))
	s.metrics.BufferedPackets.Set(float64(s.budget.Packets()))
	clients, links := s.transports()
	s.metrics.Clients.Polling.Set(float64(clients.Polling))
	s.metrics.Clients.WebSocket.Set(float64(clients.WebSocket))
	s.metrics.Links.Polling.Set(float64(links.Polling))
	s.metrics.Links.WebSocket.Set(float64(links.WebSocket))
	s.refreshServers()
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
	if s.stopping() {
		r.Holdfast.State = status.Draining
	}
	r.Sessions.Live, r.Sessions.Parked = s.registry.Counts()
	r.Sessions.MaxParked = s.settings().Recovery.MaxParkedSessions
	r.Clients, r.Links = s.transports()
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

// Panicked implements session.Observer.
func (o *observer) Panicked(v any, sessions []*session.Session) {
	(*Server)(o).reportPanic(v)
	for _, s := range sessions {
		linkOf(s).Abort()
	}
}

// Poisoned implements session.Observer.
func (o *observer) Poisoned(s *session.Session, p *buffer.Entry) {
	poison := status.Poison{Namespace: s.Namespace(), Event: shownEvent(p.Data()), Bytes: len(p.Data())}
	for _, a := range p.Attachments() {
		poison.Bytes += len(a)
	}
	o.metrics.PoisonPackets.Inc()
	o.recorder.Poisoned(poison)
	o.limitedLog.Log(slog.LevelWarn, "", "packet left out: its client cannot decode it, and closed its connection over it",
		"namespace", status.ShortNamespace(poison.Namespace), "event", poison.Event, "bytes", poison.Bytes,
		"attachments", len(p.Attachments()))
}

// shownEvent returns a packet's event name, shortened for logs and the status page. For other packets it
// returns a description in parentheses.
func shownEvent(packet []byte) string {
	h, err := socketio.ParseHeader(packet)
	switch {
	case err != nil:
		return "(unknown packet)"
	case h.IsAck():
		return "(acknowledgement)"
	case !h.IsEvent():
		return "(no event)"
	}
	name, ok := socketio.EventName(packet[h.Data:])
	if !ok {
		return "(no name)"
	}
	return status.ShortEvent(string(name))
}

// Dropped implements session.Observer.
func (o *observer) Dropped(why session.Retention, events int) {
	switch why {
	case session.DropVolatile:
		o.metrics.EventsDropped.Volatile.Add(float64(events))
	case session.KeepLatest:
		o.metrics.EventsDropped.Superseded.Add(float64(events))
	case session.Keep: // such events are never dropped
	}
}
