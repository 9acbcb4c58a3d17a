package metrics

import (
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/holdfast/holdfast/internal/reason"
)

const namespace = "holdfast"

// Metrics is every series holdfast exports. New makes one. It is safe for
// concurrent use.
type Metrics struct {
	Clients       TransportGauges    // holdfast_clients
	ClientsOpened prometheus.Counter // holdfast_clients_opened_total
	ClientsUnable prometheus.Counter // holdfast_clients_unable_to_resume_total
	KeyedClients  prometheus.Counter // holdfast_keyed_clients_opened_total
	Links         TransportGauges    // holdfast_links
	LinkPauses    prometheus.Counter // holdfast_link_pauses_total

	Sessions        StateGauges        // holdfast_sessions
	ParkedLimit     prometheus.Gauge   // holdfast_parked_sessions_limit
	SessionsCreated prometheus.Counter // holdfast_sessions_created_total
	Takeovers       prometheus.Counter // holdfast_takeovers_total
	Evictions       prometheus.Counter // holdfast_evictions_total
	Expirations     prometheus.Counter // holdfast_expirations_total

	Packets         Directions         // holdfast_packets_total
	ReplayedPackets prometheus.Counter // holdfast_replayed_packets_total
	EventsDropped   DroppedEvents      // holdfast_events_dropped_total
	PoisonPackets   prometheus.Counter // holdfast_poison_packets_total
	BufferedPackets prometheus.Gauge   // holdfast_buffered_packets
	BufferedBytes   prometheus.Gauge   // holdfast_buffered_bytes
	BufferBudget    prometheus.Gauge   // holdfast_buffer_budget_bytes

	Dials        DialResults          // holdfast_upstream_dials_total
	DialDuration prometheus.Histogram // holdfast_upstream_dial_duration_seconds
	// UpstreamFailovers counts handshakes and requests that were tried at another
	// server: holdfast_upstream_failovers_total.
	UpstreamFailovers prometheus.Counter
	// UpstreamLookupFailures counts failed lookups of the servers:
	// holdfast_upstream_lookup_failures_total.
	UpstreamLookupFailures prometheus.Counter
	// LazyHandshakes counts client handshakes answered without asking the
	// upstream: holdfast_lazy_handshakes_total.
	LazyHandshakes prometheus.Counter

	// RecoveryDuration observes seconds from a resuming CONNECT to the last
	// missed packet was written: holdfast_recovery_duration_seconds.
	RecoveryDuration prometheus.Histogram
	// DisconnectionDuration observes the seconds a recovered session was
	// parked: holdfast_disconnection_duration_seconds.
	DisconnectionDuration prometheus.Histogram

	Passthrough  PassthroughKinds   // holdfast_passthrough_requests_total
	RawRelays    prometheus.Counter // holdfast_raw_relays_total
	ConfirmPings prometheus.Counter // holdfast_confirm_pings_total
	// ConfirmDuration observes seconds from a ping, or the response to a poll,
	// until the client confirmed the packets sent before it:
	// holdfast_confirm_duration_seconds.
	ConfirmDuration   prometheus.Histogram
	HeartbeatTimeouts Sides              // holdfast_heartbeat_timeouts_total
	Panics            prometheus.Counter // holdfast_panics_total

	ConfigReloaded   prometheus.Gauge // holdfast_config_last_reload_successful
	ConfigReloadTime prometheus.Gauge // holdfast_config_last_reload_success_timestamp_seconds

	HandoverDuration     prometheus.Gauge // holdfast_handover_duration_seconds
	HandoverSessions     prometheus.Gauge // holdfast_handover_sessions
	HandoverLostSessions prometheus.Gauge // holdfast_handover_lost_sessions
	HandoverCut          prometheus.Gauge // holdfast_handover_cut_connections
	HandoverCutClients   prometheus.Gauge // holdfast_handover_cut_clients

	CertificateExpiry  prometheus.Gauge // holdfast_tls_certificate_expiry_timestamp_seconds
	CertificateReloads Reloads          // holdfast_tls_certificate_reloads_total

	Replicas

	recoveries     *prometheus.CounterVec
	parkings       *prometheus.CounterVec
	sessionsClosed *prometheus.CounterVec
	refused        *prometheus.CounterVec
	servers        *serverGauges
	handovers      *prometheus.CounterVec
}

// TransportGauges counts connections by their Engine.IO transport. An upgrade
// moves one from Polling to WebSocket.
type TransportGauges struct{ Polling, WebSocket prometheus.Gauge }

// StateGauges counts sessions by their state.
type StateGauges struct{ Live, Parked prometheus.Gauge }

// Directions counts Socket.IO packets by direction: In from clients to the
// upstream, Out to clients. A binary packet counts once, attachments included.
type Directions struct{ In, Out prometheus.Counter }

// DialResults counts Engine.IO handshakes with the upstream by result. Rejected
// means that the upstream answered with an HTTP error status. Error means that
// it did not answer, for any reason other than Timeout.
type DialResults struct{ OK, Rejected, Error, Timeout prometheus.Counter }

// PassthroughKinds counts requests that are not Engine.IO traffic.
type PassthroughKinds struct{ HTTP, WebSocket prometheus.Counter }

// RefusalLimit is a limit that refuses what exceeds it. Its value is the
// metric's label.
type RefusalLimit string

// The limits that can refuse something.
const (
	// Connections: limits.max_connections.
	Connections RefusalLimit = "connections"
	// ConnectionsPerAddress: limits.max_connections_per_address.
	ConnectionsPerAddress RefusalLimit = "connections_per_address"
	// HandshakesPerAddress: limits.handshakes_per_second_per_address.
	HandshakesPerAddress RefusalLimit = "handshakes_per_address"
	// Namespaces: limits.max_namespaces_per_connection.
	Namespaces RefusalLimit = "namespaces"
	// TakeoversPerSession: limits.takeovers_per_minute_per_session.
	TakeoversPerSession RefusalLimit = "takeovers_per_session"
	// IncompleteBytes: the memory for partly received messages.
	IncompleteBytes RefusalLimit = "incomplete_bytes"
)

// refusalKeys are the configuration keys of the limits.
var refusalKeys = map[RefusalLimit]string{
	Connections:           "limits.max_connections",
	ConnectionsPerAddress: "limits.max_connections_per_address",
	HandshakesPerAddress:  "limits.handshakes_per_second_per_address",
	Namespaces:            "limits.max_namespaces_per_connection",
	TakeoversPerSession:   "limits.takeovers_per_minute_per_session",
	IncompleteBytes:       "recovery.buffer.total_bytes",
}

// Key is the configuration key that sets the limit.
func (l RefusalLimit) Key() string { return refusalKeys[l] }

// RefusalLimits returns every RefusalLimit.
func RefusalLimits() []RefusalLimit {
	return []RefusalLimit{
		Connections, ConnectionsPerAddress, HandshakesPerAddress, Namespaces, TakeoversPerSession, IncompleteBytes,
	}
}

// DroppedEvents counts events that were not delivered, by reason. Volatile and
// Superseded events were sent by the server while the client was away:
// Volatile ones match events.volatile, Superseded ones match events.latest and
// were followed by a newer one. Forged events were sent by a client under a
// name that notify.parked or notify.resumed reserves.
// Rejoined ones match events.join, and repeat what a resumed session has sent
// before.
type DroppedEvents struct{ Volatile, Superseded, Forged, Rejoined prometheus.Counter }

// Reloads counts reloads by result.
type Reloads struct{ OK, Failed prometheus.Counter }

// Sides counts timeouts by the side that was silent.
type Sides struct{ Client, Upstream prometheus.Counter }

// New registers all series with reg. It panics if one is registered already.
func New(reg prometheus.Registerer) *Metrics {
	f := factory{promauto.With(reg)}

	clients := f.gauges("clients", "Clients currently connected, by Engine.IO transport.", "transport")
	links := f.gauges("links", "Current connections to the upstream, by Engine.IO transport.", "transport")
	sessions := f.gauges("sessions", "Current sessions, by state: live (a client is attached) or parked (waiting for its client).", "state")
	packets := f.counters("packets_total", "Socket.IO packets, by direction: in from clients, out to clients.", "direction")
	dials := f.counters("upstream_dials_total", "Engine.IO handshakes with the upstream, by result.", "result")
	passthrough := f.counters("passthrough_requests_total", "Requests passed through because they are not Engine.IO traffic, by kind.", "kind")
	heartbeats := f.counters("heartbeat_timeouts_total", "Connections closed because no heartbeat arrived, by the side that was silent.", "side")

	eventsDropped := f.counters("events_dropped_total", "Events dropped, by reason: volatile or superseded while the client was away, forged by a client, or rejoined (repeated by a client after a recovery).", "reason")

	certificates := f.counters("tls_certificate_reloads_total", "Reloads of the listener's certificate files, by result. After a failed one the old certificate stays in use.", "result")

	m := &Metrics{
		Clients:       TransportGauges{clients.WithLabelValues("polling"), clients.WithLabelValues("websocket")},
		ClientsOpened: f.counter("clients_opened_total", "Clients that completed the Engine.IO handshake."),
		KeyedClients:  f.counter("keyed_clients_opened_total", "Clients whose handshake had a key (recovery.keyed)."),
		ClientsUnable: f.counter("clients_unable_to_resume_total", "Clients served without recovery because their library is known to be unable to resume."),
		Links:         TransportGauges{links.WithLabelValues("polling"), links.WithLabelValues("websocket")},
		LinkPauses:    f.counter("link_pauses_total", "Pauses in reading from the upstream because the client was too slow."),

		Sessions:        StateGauges{sessions.WithLabelValues("live"), sessions.WithLabelValues("parked")},
		ParkedLimit:     f.gauge("parked_sessions_limit", "Maximum number of parked sessions."),
		SessionsCreated: f.counter("sessions_created_total", "Sessions created."),
		Takeovers:       f.counter("takeovers_total", "Live sessions moved to a newer connection of the same client."),
		Evictions:       f.counter("evictions_total", "Parked sessions closed to make room for others."),
		Expirations:     f.counter("expirations_total", "Parked sessions closed because their client did not return in time."),

		Packets:         Directions{packets.WithLabelValues("in"), packets.WithLabelValues("out")},
		ReplayedPackets: f.counter("replayed_packets_total", "Missed Socket.IO packets sent to recovered clients."),
		EventsDropped: DroppedEvents{
			Volatile:   eventsDropped.WithLabelValues("volatile"),
			Superseded: eventsDropped.WithLabelValues("superseded"),
			Forged:     eventsDropped.WithLabelValues("forged"),
			Rejoined:   eventsDropped.WithLabelValues("rejoined"),
		},
		PoisonPackets:   f.counter("poison_packets_total", "Socket.IO packets dropped because their client cannot decode them."),
		BufferedPackets: f.gauge("buffered_packets", "Socket.IO packets currently kept in memory."),
		BufferedBytes:   f.gauge("buffered_bytes", "Size of the packets currently kept in memory."),
		BufferBudget:    f.gauge("buffer_budget_bytes", "Memory budget for the packets of all sessions."),

		Dials: DialResults{
			OK:       dials.WithLabelValues("ok"),
			Rejected: dials.WithLabelValues("rejected"),
			Error:    dials.WithLabelValues("error"),
			Timeout:  dials.WithLabelValues("timeout"),
		},
		DialDuration: f.histogram("upstream_dial_duration_seconds", "Duration of the Engine.IO handshakes that the upstream answered.",
			.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30),

		UpstreamFailovers:      f.counter("upstream_failovers_total", "Handshakes and passed-through requests tried at another server because the first could not serve them."),
		UpstreamLookupFailures: f.counter("upstream_lookup_failures_total", "Failed lookups of the upstream's servers in DNS. The last answer stays in use."),

		LazyHandshakes: f.counter("lazy_handshakes_total", "Client handshakes answered without asking the upstream."),

		RecoveryDuration: f.histogram("recovery_duration_seconds", "Time from a resuming CONNECT until the last missed packet was written.",
			.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30),
		DisconnectionDuration: f.histogram("disconnection_duration_seconds", "How long recovered sessions had been parked.",
			.1, .25, .5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600),

		Passthrough: PassthroughKinds{passthrough.WithLabelValues("http"), passthrough.WithLabelValues("websocket")},
		RawRelays:   f.counter("raw_relays_total", "Connections relayed without recovery because they do not use the default parser."),
		ConfirmDuration: f.histogram("confirm_duration_seconds", "Time from a ping, or the response to a poll, until the client confirmed the packets sent before it.",
			.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30),
		ConfirmPings:      f.counter("confirm_pings_total", "Extra pings sent to clients between heartbeats to learn what has arrived."),
		HeartbeatTimeouts: Sides{heartbeats.WithLabelValues("client"), heartbeats.WithLabelValues("upstream")},
		Panics:            f.counter("panics_total", "Recovered panics. Each closed one connection and is a bug: see the log."),

		ConfigReloaded:   f.gauge("config_last_reload_successful", "Whether the last attempt to load the configuration succeeded: 1 or 0."),
		ConfigReloadTime: f.gauge("config_last_reload_success_timestamp_seconds", "Unix time of the last successful load of the configuration."),

		HandoverDuration:     f.gauge("handover_duration_seconds", "Duration of the last handover to another process."),
		HandoverSessions:     f.gauge("handover_sessions", "Sessions kept by the last handover."),
		HandoverLostSessions: f.gauge("handover_lost_sessions", "Sessions that ended with the last handover, because they cannot be handed over."),
		HandoverCut:          f.gauge("handover_cut_connections", "Connections without a session that the last handover cut: pass-through requests and WebSockets, and raw relays."),
		HandoverCutClients:   f.gauge("handover_cut_clients", "Clients that did not end their connection within handover.leave in the last handover. What they had sent and holdfast had not read is lost."),

		CertificateExpiry:  f.gauge("tls_certificate_expiry_timestamp_seconds", "Unix time when the listener's certificate expires; 0 without TLS."),
		CertificateReloads: Reloads{certificates.WithLabelValues("ok"), certificates.WithLabelValues("failed")},

		recoveries:     f.counters("recoveries_total", "Reconnections that presented a pid, by result and reason.", "result", "reason"),
		parkings:       f.counters("parkings_total", "Sessions parked, by how their client's connection ended.", "reason"),
		sessionsClosed: f.counters("sessions_closed_total", "Sessions closed, by reason.", "reason"),
		servers:        newServerGauges(f),
		refused:        f.counters("refused_total", "Connections, handshakes, takeovers and clients refused, by the limit that was reached.", "limit"),
		handovers:      f.counters("handovers_total", "Attempts to hand the sessions to another process, by result, including those of previous processes.", "result"),
		Replicas:       newReplicas(f),
	}
	for _, r := range reason.Recovered() {
		m.recoveries.WithLabelValues("recovered", string(r))
	}
	for _, r := range reason.Failed() {
		m.recoveries.WithLabelValues("failed", string(r))
	}
	for _, r := range reason.Parked() {
		m.parkings.WithLabelValues(string(r))
	}
	for _, r := range reason.Closed() {
		m.sessionsClosed.WithLabelValues(string(r))
	}

	for _, result := range HandoverResults() {
		m.handovers.WithLabelValues(result)
	}
	for _, l := range RefusalLimits() {
		m.refused.WithLabelValues(string(l))
	}

	version, revision := build()
	f.gauges("build_info", "Always 1; the labels describe the running binary.", "version", "revision", "go_version").
		WithLabelValues(version, revision, runtime.Version()).Set(1)
	return m
}

// Recovered counts a session that its client resumed. A Takeover also counts in
// Takeovers.
func (m *Metrics) Recovered(why reason.Reason) {
	m.recoveries.WithLabelValues("recovered", string(why)).Inc()
	if why == reason.Takeover {
		m.Takeovers.Inc()
	}
}

// RecoveryFailed counts a client that presented a pid but did not get its
// session.
func (m *Metrics) RecoveryFailed(why reason.Reason) {
	m.recoveries.WithLabelValues("failed", string(why)).Inc()
}

// Parked counts a session that lost its client. The caller updates the Sessions
// gauges.
func (m *Metrics) Parked(why reason.Reason) {
	m.parkings.WithLabelValues(string(why)).Inc()
}

// SessionClosed counts the end of a session. Expired and Evicted also count in
// Expirations and Evictions. The caller updates the Sessions gauges.
func (m *Metrics) SessionClosed(why reason.Reason) {
	m.sessionsClosed.WithLabelValues(string(why)).Inc()
	switch why {
	case reason.Expired:
		m.Expirations.Inc()
	case reason.Evicted:
		m.Evictions.Inc()
	default: // the others have no counter of their own
	}
}

// Refused counts something that a limit refused.
func (m *Metrics) Refused(limit RefusalLimit) { m.refused.WithLabelValues(string(limit)).Inc() }

// HandoverResults returns the results of a handover. Package courier describes them.
func HandoverResults() []string { return []string{"ok", "failed", "restored", "rejected"} }

// Handovers counts n attempts to hand the sessions to another process.
func (m *Metrics) Handovers(result string, n uint64) {
	m.handovers.WithLabelValues(result).Add(float64(n))
}

// build returns the version and the revision that the Go tool recorded in this binary.
func build() (version, revision string) {
	version, revision = "unknown", "unknown"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version, revision
	}
	if info.Main.Version != "" {
		version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = s.Value
		}
	}
	return version, revision
}

// factory makes metrics in holdfast's namespace.
type factory struct{ promauto.Factory }

func (f factory) counter(name, help string) prometheus.Counter {
	return f.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
}

func (f factory) counters(name, help string, labels ...string) *prometheus.CounterVec {
	return f.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

func (f factory) gauge(name, help string) prometheus.Gauge {
	return f.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
}

func (f factory) gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	return f.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

func (f factory) histogram(name, help string, buckets ...float64) prometheus.Histogram {
	return f.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets})
}
