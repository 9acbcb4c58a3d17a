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
	// ClientDisconnect: the client said goodbye. Its session may be parked for that too.
	ClientDisconnect Reason = "client_disconnect"
	// UpstreamLost: the connection to the server ended.
	UpstreamLost Reason = "upstream_lost"
	// Draining: holdfast was shutting down.
	Draining Reason = "draining"
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
	// Limit: too many recoveries had failed from the client's address, or its session was taken over too often; or the client was closed at another limit.
	Limit Reason = "limit"
	// Excluded: recovery is off, or not for this client or namespace.
	Excluded Reason = "excluded"
)

// Why a session was parked: how its client's transport ended. ClientDisconnect is another reason.
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
	// NotParked: its client went away, and recovery is off or not for it or its namespace.
	NotParked Reason = "not_parked"
	// Internal: a panic, confined to its connection. See the log.
	Internal Reason = "internal"
)

// RecoveredReasons are the reasons of Metrics.Recovered.
func RecoveredReasons() []Reason { return []Reason{Resumed, Takeover} }

// FailedReasons are the reasons of Metrics.RecoveryFailed.
func FailedReasons() []Reason {
	return []Reason{
		Expired, Evicted, UnknownPID, BadOffset, BufferFull, ServerDisconnect, ClientDisconnect,
		UpstreamLost, WrongNamespace, Stale, Draining, Limit, Binding, Excluded, Internal,
	}
}

// ParkingReasons are the reasons of Metrics.Parked.
func ParkingReasons() []Reason {
	return []Reason{TransportClose, TransportError, PingTimeout, EngineClose, GoingAway, PollError, ParseError, Limit, Takeover, ClientDisconnect}
}

// CloseReasons are the reasons of Metrics.SessionClosed.
func CloseReasons() []Reason {
	return []Reason{
		Expired, Evicted, BufferFull, ServerDisconnect, ClientDisconnect, UpstreamLost, Draining, BadOffset, NotParked,
		Internal,
	}
}

// meanings are the sentences of docs/metrics.md, without its marks.
var meanings = map[Reason]string{
	Resumed:          "The session was parked, and its client has it again.",
	Takeover:         "The session was still live: its client came back over a new connection before the old one was known to be dead.",
	Expired:          "The client was away for longer than recovery.max_disconnection_duration (or recovery.going_away_duration).",
	Evicted:          "More sessions were parked than recovery.max_parked_sessions, or the memory budget was needed.",
	BufferFull:       "The session missed more than recovery.buffer.max_packets or recovery.buffer.max_bytes.",
	ServerDisconnect: "The server disconnected the socket.",
	ClientDisconnect: "The client called disconnect(). Parked, with recovery.on_client_disconnect: park; it is not recovered even so if it came back at once while events were on their way.",
	UpstreamLost:     "The connection to the server ended: it stopped, restarted, closed it or fell silent.",
	Draining:         "holdfast was shutting down.",
	UnknownPID:       "No session has this pid, nor is one remembered: holdfast restarted, the request reached another replica, or it was long ago.",
	BadOffset:        "The client's offset was not given by holdfast, or lies beyond what was sent.",
	WrongNamespace:   "The pid belongs to a session of another namespace.",
	Stale:            "A newer connection of the same client has, or last had, the session.",
	Binding:          "The client lacks what the session is bound to by recovery.bind. The session stays.",
	Limit:            "Not recovered: too many recoveries had failed from the client's address (limits.failed_resumes_per_second_per_address), so this one was not looked up; or the session was taken over too often (limits.takeovers_per_minute_per_session). Parked: the client was closed at another limit (holdfast_refused_total).",
	Excluded:         "Recovery is off, or not for this client (recovery.clients) or namespace (recovery.namespaces), though it presents a pid from before.",
	TransportClose:   "The client's connection was closed.",
	TransportError:   "The client's connection broke.",
	PingTimeout:      "The client did not answer a heartbeat.",
	EngineClose:      "The client closed its Engine.IO connection, without a Socket.IO disconnect.",
	GoingAway:        "The client's page was closed or left (WebSocket close code 1001).",
	PollError:        "A long-polling request was cancelled, or overlapped another: so ends a long-polling client that loses the network.",
	ParseError:       "The client sent what is not Engine.IO or Socket.IO.",
	NotParked:        "The client went away, and recovery is turned off, or not for this client or namespace.",
	Internal:         "A panic, confined to this connection.",
}

// Meaning says in a sentence what the reason is, for operators.
func (r Reason) Meaning() string { return meanings[r] }
