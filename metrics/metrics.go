package metrics

import (
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const namespace = "holdfast"

// Metrics is every series holdfast exports, safe for concurrent use. Make it
// with New.
type Metrics struct {
	Clients       TransportGauges    // holdfast_clients
	ClientsOpened prometheus.Counter // holdfast_clients_opened_total
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
	BufferedPackets prometheus.Gauge   // holdfast_buffered_packets
	BufferedBytes   prometheus.Gauge   // holdfast_buffered_bytes
	BufferBudget    prometheus.Gauge   // holdfast_buffer_budget_bytes

	Dials        DialResults          // holdfast_upstream_dials_total
	DialDuration prometheus.Histogram // holdfast_upstream_dial_duration_seconds
	// LazyHandshakes counts clients' handshakes that the upstream was not asked for: holdfast_lazy_handshakes_total.
	LazyHandshakes prometheus.Counter

	// RecoveryDuration observes seconds from a resuming CONNECT to the last
	// missed packet written: holdfast_recovery_duration_seconds.
	RecoveryDuration prometheus.Histogram
	// DisconnectionDuration observes the seconds a recovered session was
	// parked: holdfast_disconnection_duration_seconds.
	DisconnectionDuration prometheus.Histogram

	Passthrough  PassthroughKinds   // holdfast_passthrough_requests_total
	RawRelays    prometheus.Counter // holdfast_raw_relays_total
	ConfirmPings prometheus.Counter // holdfast_confirm_pings_total
	// ConfirmDuration observes seconds from a ping, or the answer to a poll,
	// until the client confirmed packets sent before it: holdfast_confirm_duration_seconds.
	ConfirmDuration   prometheus.Histogram
	HeartbeatTimeouts Sides              // holdfast_heartbeat_timeouts_total
	Panics            prometheus.Counter // holdfast_panics_total

	ConfigReloaded   prometheus.Gauge // holdfast_config_last_reload_successful
	ConfigReloadTime prometheus.Gauge // holdfast_config_last_reload_success_timestamp_seconds

	CertificateExpiry  prometheus.Gauge // holdfast_tls_certificate_expiry_timestamp_seconds
	CertificateReloads Reloads          // holdfast_tls_certificate_reloads_total

	recoveries     *prometheus.CounterVec
	parkings       *prometheus.CounterVec
	sessionsClosed *prometheus.CounterVec
	refused        *prometheus.CounterVec
}

// TransportGauges counts connections by their Engine.IO transport. An upgrade
// moves one from Polling to WebSocket.
type TransportGauges struct{ Polling, WebSocket prometheus.Gauge }

// StateGauges counts sessions by their state.
type StateGauges struct{ Live, Parked prometheus.Gauge }

// Directions counts Socket.IO packets by where they go: In from clients to the
// upstream, Out to clients. A binary packet and its attachments are one.
type Directions struct{ In, Out prometheus.Counter }

// DialResults counts Engine.IO handshakes with the upstream by how they ended:
// Rejected is the upstream's own refusal (an HTTP status), Error everything
// that kept it from answering, Timeout excepted.
type DialResults struct{ OK, Rejected, Error, Timeout prometheus.Counter }

// PassthroughKinds counts what is no Engine.IO traffic.
type PassthroughKinds struct{ HTTP, WebSocket prometheus.Counter }

// RefusalLimit is a limit that turns away what comes beyond it, as the metric's label has it.
type RefusalLimit string

// What can be refused.
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
	// IncompleteBytes: the memory for messages that have come in part.
	IncompleteBytes RefusalLimit = "incomplete_bytes"
)

// RefusalLimits are all of them.
func RefusalLimits() []RefusalLimit {
	return []RefusalLimit{
		Connections, ConnectionsPerAddress, HandshakesPerAddress, Namespaces, TakeoversPerSession, IncompleteBytes,
	}
}

// DroppedEvents counts events that were not passed on, by why. Volatile and Superseded are the server's, for a client
// that was away: of events.volatile, and of events.latest when a newer one came. Forged are clients', with a name that
// is holdfast's own by notify.parked or notify.resumed.
type DroppedEvents struct{ Volatile, Superseded, Forged prometheus.Counter }

// Reloads counts by how they went.
type Reloads struct{ OK, Failed prometheus.Counter }

// Sides counts by the side that fell silent.
type Sides struct{ Client, Upstream prometheus.Counter }

// New registers all series with reg. It panics if some are there already.
func New(reg prometheus.Registerer) *Metrics {
	f := factory{promauto.With(reg)}

	clients := f.gauges("clients", "Clients connected now, by Engine.IO transport.", "transport")
	links := f.gauges("links", "Connections to the upstream now, by Engine.IO transport.", "transport")
	sessions := f.gauges("sessions", "Sessions now, by state: live with a client, parked without one.", "state")
	packets := f.counters("packets_total", "Socket.IO packets, by direction: in from clients, out to clients.", "direction")
	dials := f.counters("upstream_dials_total", "Engine.IO handshakes with the upstream, by result.", "result")
	passthrough := f.counters("passthrough_requests_total", "Requests passed through that are no Engine.IO traffic, by kind.", "kind")
	heartbeats := f.counters("heartbeat_timeouts_total", "Connections given up for silence, by the side that was silent.", "side")

	eventsDropped := f.counters("events_dropped_total", "Events not passed on, by reason: volatile and superseded for clients that were away, forged by clients.", "reason")

	certificates := f.counters("tls_certificate_reloads_total", "Changes of the listener's certificate files, by result: failed leaves the former one in use.", "result")

	m := &Metrics{
		Clients:       TransportGauges{clients.WithLabelValues("polling"), clients.WithLabelValues("websocket")},
		ClientsOpened: f.counter("clients_opened_total", "Clients that completed the Engine.IO handshake."),
		Links:         TransportGauges{links.WithLabelValues("polling"), links.WithLabelValues("websocket")},
		LinkPauses:    f.counter("link_pauses_total", "Times that an upstream connection was not read because its client was behind."),

		Sessions:        StateGauges{sessions.WithLabelValues("live"), sessions.WithLabelValues("parked")},
		ParkedLimit:     f.gauge("parked_sessions_limit", "Sessions that may be parked at a time."),
		SessionsCreated: f.counter("sessions_created_total", "Sessions created."),
		Takeovers:       f.counter("takeovers_total", "Sessions moved from a live client to the same one's newer connection."),
		Evictions:       f.counter("evictions_total", "Parked sessions closed to make room."),
		Expirations:     f.counter("expirations_total", "Parked sessions closed because their client stayed away."),

		Packets:         Directions{packets.WithLabelValues("in"), packets.WithLabelValues("out")},
		ReplayedPackets: f.counter("replayed_packets_total", "Socket.IO packets that a recovered client had missed, sent to it."),
		EventsDropped: DroppedEvents{
			Volatile:   eventsDropped.WithLabelValues("volatile"),
			Superseded: eventsDropped.WithLabelValues("superseded"),
			Forged:     eventsDropped.WithLabelValues("forged"),
		},
		BufferedPackets: f.gauge("buffered_packets", "Socket.IO packets kept in memory now."),
		BufferedBytes:   f.gauge("buffered_bytes", "Bytes of the packets kept in memory now."),
		BufferBudget:    f.gauge("buffer_budget_bytes", "Bytes that may be kept in memory, for all sessions."),

		Dials: DialResults{
			OK:       dials.WithLabelValues("ok"),
			Rejected: dials.WithLabelValues("rejected"),
			Error:    dials.WithLabelValues("error"),
			Timeout:  dials.WithLabelValues("timeout"),
		},
		DialDuration: f.histogram("upstream_dial_duration_seconds", "Duration of Engine.IO handshakes with the upstream that it answered.",
			.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30),

		LazyHandshakes: f.counter("lazy_handshakes_total", "Handshakes of clients that the upstream was not asked for."),

		RecoveryDuration: f.histogram("recovery_duration_seconds", "Time from a resuming CONNECT to the last missed packet written.",
			.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30),
		DisconnectionDuration: f.histogram("disconnection_duration_seconds", "Time for which recovered sessions had been parked.",
			.1, .25, .5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600),

		Passthrough: PassthroughKinds{passthrough.WithLabelValues("http"), passthrough.WithLabelValues("websocket")},
		RawRelays:   f.counter("raw_relays_total", "Connections relayed as they are, without recovery, for their parser is not Socket.IO's default."),
		ConfirmDuration: f.histogram("confirm_duration_seconds", "Time from a ping, or the answer to a poll, until the client confirmed the packets sent before it.",
			.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30),
		ConfirmPings:      f.counter("confirm_pings_total", "Pings sent to clients between heartbeats, to learn what has arrived."),
		HeartbeatTimeouts: Sides{heartbeats.WithLabelValues("client"), heartbeats.WithLabelValues("upstream")},
		Panics:            f.counter("panics_total", "Panics confined to one connection. Each is a defect: see the log."),

		ConfigReloaded:   f.gauge("config_last_reload_successful", "Whether the configuration was good when it was loaded last: 1 or 0."),
		ConfigReloadTime: f.gauge("config_last_reload_success_timestamp_seconds", "When a good configuration was loaded last, in seconds since 1970."),

		CertificateExpiry:  f.gauge("tls_certificate_expiry_timestamp_seconds", "When the listener's certificate expires, in seconds since 1970; 0 without TLS."),
		CertificateReloads: Reloads{certificates.WithLabelValues("ok"), certificates.WithLabelValues("failed")},

		recoveries:     f.counters("recoveries_total", "Reconnections that presented a pid, by result and reason.", "result", "reason"),
		parkings:       f.counters("parkings_total", "Sessions parked, by how their client went away.", "reason"),
		sessionsClosed: f.counters("sessions_closed_total", "Sessions closed, by reason.", "reason"),
		refused:        f.counters("refused_total", "Connections, handshakes, takeovers and clients turned away, by the limit that was reached.", "limit"),
	}
	for _, r := range RecoveredReasons() {
		m.recoveries.WithLabelValues("recovered", string(r))
	}
	for _, r := range FailedReasons() {
		m.recoveries.WithLabelValues("failed", string(r))
	}
	for _, r := range ParkingReasons() {
		m.parkings.WithLabelValues(string(r))
	}
	for _, r := range CloseReasons() {
		m.sessionsClosed.WithLabelValues(string(r))
	}

	for _, l := range RefusalLimits() {
		m.refused.WithLabelValues(string(l))
	}

	version, revision := build()
	f.gauges("build_info", "Always 1; the labels say what is running.", "version", "revision", "go_version").
		WithLabelValues(version, revision, runtime.Version()).Set(1)
	return m
}

// Recovered counts a session that its client has again. A Takeover counts in
// Takeovers too.
func (m *Metrics) Recovered(why Reason) {
	m.recoveries.WithLabelValues("recovered", string(why)).Inc()
	if why == Takeover {
		m.Takeovers.Inc()
	}
}

// RecoveryFailed counts a client that presented a pid and did not get its
// session.
func (m *Metrics) RecoveryFailed(why Reason) {
	m.recoveries.WithLabelValues("failed", string(why)).Inc()
}

// Parked counts a session that lost its client. The Sessions gauges are the
// caller's to move.
func (m *Metrics) Parked(why Reason) {
	m.parkings.WithLabelValues(string(why)).Inc()
}

// SessionClosed counts the end of a session; Expired and Evicted count in
// Expirations and Evictions too. The Sessions gauges are the caller's to move.
func (m *Metrics) SessionClosed(why Reason) {
	m.sessionsClosed.WithLabelValues(string(why)).Inc()
	switch why {
	case Expired:
		m.Expirations.Inc()
	case Evicted:
		m.Evictions.Inc()
	default: // the others have no counter of their own
	}
}

// Refused counts what a limit turned away.
func (m *Metrics) Refused(limit RefusalLimit) { m.refused.WithLabelValues(string(limit)).Inc() }

// build says what this binary was made from, as far as the Go tool knows.
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

// factory makes metrics of our namespace.
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
