package metrics

// Reason is why a session was parked or closed, or a reconnection did or did
// not recover it. It is the same word in metrics, logs and on the status page;
// the words are listed in docs/metrics.md. The set is closed: a reason is one
// of the constants below.
type Reason string

// Why a recovery succeeded.
const (
	// Resumed: the session was parked.
	Resumed Reason = "resumed"
	// Takeover: the session was still live with an older client.
	Takeover Reason = "takeover"
)

// Why a session was closed, and so why a client that comes back for it later
// is not recovered.
const (
	// Expired: its client was away for longer than is allowed.
	Expired Reason = "expired"
	// Evicted: too many sessions were parked, or the memory was needed.
	Evicted Reason = "evicted"
	// BufferFull: it missed more packets or bytes than are kept for it.
	BufferFull Reason = "buffer_full"
	// ServerDisconnect: the server disconnected it.
	ServerDisconnect Reason = "server_disconnect"
	// ClientDisconnect: the client said goodbye.
	ClientDisconnect Reason = "client_disconnect"
	// UpstreamLost: the connection to the server ended.
	UpstreamLost Reason = "upstream_lost"
	// Draining: holdfast was shutting down.
	Draining Reason = "draining"
	// Limit: a configured limit was reached.
	Limit Reason = "limit"
)

// Why a client is not recovered, apart from its session's being closed.
const (
	// UnknownPID: no session has, or is remembered to have had, this pid.
	UnknownPID Reason = "unknown_pid"
	// BadOffset: the offset was not made by holdfast, or never sent.
	BadOffset Reason = "bad_offset"
	// WrongNamespace: the pid belongs to a session of another namespace.
	WrongNamespace Reason = "wrong_namespace"
	// Stale: a client with a later handshake has the session.
	Stale Reason = "stale"
	// Binding: the client lacks what the session is bound to.
	Binding Reason = "binding"
)

// Why a session was parked: how its client's transport ended.
const (
	// TransportClose: the connection was closed.
	TransportClose Reason = "transport_close"
	// TransportError: the connection broke.
	TransportError Reason = "transport_error"
	// PingTimeout: the client did not answer a ping.
	PingTimeout Reason = "ping_timeout"
	// EngineClose: the client sent an Engine.IO close packet.
	EngineClose Reason = "engine_close"
	// GoingAway: WebSocket close code 1001, the page is going away.
	GoingAway Reason = "going_away"
	// PollError: a poll was cancelled, or overlapped another.
	PollError Reason = "poll_error"
	// ParseError: the client broke the protocol.
	ParseError Reason = "parse_error"
)

// Why a session was closed without having been recoverable.
const (
	// NotParked: its client went away, and recovery is off or not for it.
	NotParked Reason = "not_parked"
	// Internal: a defect of holdfast's, see the log.
	Internal Reason = "internal"
)

// RecoveredReasons are the reasons of Metrics.Recovered.
func RecoveredReasons() []Reason { return []Reason{Resumed, Takeover} }

// FailedReasons are the reasons of Metrics.RecoveryFailed.
func FailedReasons() []Reason {
	return []Reason{
		Expired, Evicted, UnknownPID, BadOffset, BufferFull, ServerDisconnect, ClientDisconnect,
		UpstreamLost, WrongNamespace, Stale, Draining, Limit, Binding,
	}
}

// ParkingReasons are the reasons of Metrics.Parked.
func ParkingReasons() []Reason {
	return []Reason{TransportClose, TransportError, PingTimeout, EngineClose, GoingAway, PollError, ParseError, Takeover, Internal}
}

// CloseReasons are the reasons of Metrics.SessionClosed.
func CloseReasons() []Reason {
	return []Reason{
		Expired, Evicted, BufferFull, ServerDisconnect, ClientDisconnect, UpstreamLost, Draining, Limit,
		BadOffset, ParseError, NotParked, Internal,
	}
}
