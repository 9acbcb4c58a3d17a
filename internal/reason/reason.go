// Package reason has the closed list of reasons why sessions are parked, closed, recovered or not
// recovered.
//
// Package session decides on them. Metrics, logs, the status page and notifications show the same
// words, and docs/metrics.md lists them.
package reason

// Reason says why a session was parked or closed, or why a reconnection did or did not recover it.
// The constants below are the only reasons.
type Reason string

// Why a recovery succeeded.
const (
	// Resumed: the session was parked.
	Resumed Reason = "resumed"
	// Takeover: the session was still live with an older client.
	Takeover Reason = "takeover"
)

// Why a session was closed, and so why a client that returns later is not
// recovered.
const (
	// Expired: its client was away for longer than is allowed.
	Expired Reason = "expired"
	// Evicted: too many sessions were parked, or memory was short.
	Evicted Reason = "evicted"
	// BufferFull: the client missed more packets or bytes than holdfast keeps.
	BufferFull Reason = "buffer_full"
	// ServerDisconnect: the server disconnected it.
	ServerDisconnect Reason = "server_disconnect"
	// ClientDisconnect: the client sent a DISCONNECT. The session may also have
	// been parked for it.
	ClientDisconnect Reason = "client_disconnect"
	// UpstreamLost: the connection to the server ended.
	UpstreamLost Reason = "upstream_lost"
	// Draining: holdfast was shutting down.
	Draining Reason = "draining"
)

// Why a client is not recovered although its session may still exist.
const (
	// UnknownPID: no session has this pid, and none is known to have had it.
	UnknownPID Reason = "unknown_pid"
	// BadOffset: the offset was not issued by holdfast, or lies beyond what was sent.
	BadOffset Reason = "bad_offset"
	// WrongNamespace: the pid belongs to a session of another namespace.
	WrongNamespace Reason = "wrong_namespace"
	// Stale: a client with a later handshake has the session.
	Stale Reason = "stale"
	// Binding: the client does not present what the session is bound to.
	Binding Reason = "binding"
	// Limit: too many recoveries from the client's address had failed, its
	// session was taken over too often, or the client exceeded another limit.
	Limit Reason = "limit"
	// KeyInUse: another client that is connected has its key (recovery.keyed).
	KeyInUse Reason = "key_in_use"
	// Excluded: recovery is off, or excludes this client or namespace.
	Excluded Reason = "excluded"
	// OwnerGone: the replica with the session does not exist any more.
	OwnerGone Reason = "owner_gone"
	// OwnerUnreachable: the replica with the session cannot be reached. When it
	// can be, it closes the session for this reason.
	OwnerUnreachable Reason = "owner_unreachable"
	// OwnerIncompatible: the replica with the session speaks another version of
	// the peer protocol.
	OwnerIncompatible Reason = "owner_incompatible"
	// OwnerConflict: the client already has sessions at another replica than the
	// one with this session.
	OwnerConflict Reason = "owner_conflict"
)

// Why a session was parked: how its client's transport ended. ClientDisconnect,
// Takeover and Limit can park a session, too.
const (
	// TransportClose: the connection was closed.
	TransportClose Reason = "transport_close"
	// TransportError: the connection broke.
	TransportError Reason = "transport_error"
	// PingTimeout: the client did not answer a ping.
	PingTimeout Reason = "ping_timeout"
	// EngineClose: the client sent an Engine.IO close packet.
	EngineClose Reason = "engine_close"
	// GoingAway: the user leaves the page (WebSocket close code 1001).
	GoingAway Reason = "going_away"
	// PollError: a poll was cancelled, or overlapped another.
	PollError Reason = "poll_error"
	// ParseError: the client violated the protocol.
	ParseError Reason = "parse_error"
	// Handover: another holdfast process takes over.
	Handover Reason = "handover"
	// PeerLost: the replica that relayed the connection is gone, or cannot be reached.
	PeerLost Reason = "peer_lost"
)

// Why a session was closed that could not be recovered at all.
const (
	// NotParked: its client went away, and recovery is off or excludes it or its namespace.
	NotParked Reason = "not_parked"
	// Internal: a panic while its connection was handled. See the log.
	Internal Reason = "internal"
)

// Recovered lists why a session can be recovered.
func Recovered() []Reason { return []Reason{Resumed, Takeover} }

// Failed lists why a client that presents a pid may not get its session.
func Failed() []Reason {
	return []Reason{
		Expired, Evicted, UnknownPID, BadOffset, BufferFull, ServerDisconnect, ClientDisconnect,
		UpstreamLost, WrongNamespace, Stale, Draining, Limit, Binding, KeyInUse, Excluded, Internal,
		OwnerGone, OwnerUnreachable, OwnerIncompatible, OwnerConflict,
	}
}

// Parked lists why a session can be parked.
func Parked() []Reason {
	return []Reason{TransportClose, TransportError, PingTimeout, EngineClose, GoingAway, PollError, ParseError, Limit, Takeover, ClientDisconnect, Handover, PeerLost}
}

// Closed lists why a session can be closed.
func Closed() []Reason {
	return []Reason{
		Expired, Evicted, BufferFull, ServerDisconnect, ClientDisconnect, UpstreamLost, Draining, BadOffset, NotParked,
		Internal, OwnerUnreachable, OwnerConflict,
	}
}

// meanings are the descriptions in docs/metrics.md, without its markup.
var meanings = map[Reason]string{
	Resumed:           "The session was parked, and its client resumed it.",
	Takeover:          "The session was still live: its client reconnected before the old connection was known to be dead.",
	Expired:           "The client was away for longer than recovery.max_disconnection_duration (or recovery.going_away_duration).",
	Evicted:           "More than recovery.max_parked_sessions sessions were parked, or the memory budget was exceeded.",
	BufferFull:        "The client missed more than recovery.buffer.max_packets or recovery.buffer.max_bytes.",
	ServerDisconnect:  "The server disconnected the socket.",
	ClientDisconnect:  "The client called disconnect(). With recovery.on_client_disconnect: park its session is parked; it is still not recovered if the client reconnected immediately while events were in flight.",
	UpstreamLost:      "The connection to the server ended: the server stopped, restarted, closed it or went silent.",
	Draining:          "holdfast was shutting down.",
	UnknownPID:        "No session, current or recent, has this pid: holdfast restarted, the request reached another replica, or the session ended long ago.",
	BadOffset:         "The client's offset was not issued by holdfast, or lies beyond what was sent.",
	WrongNamespace:    "The pid belongs to a session of another namespace.",
	Stale:             "A newer connection of the same client has the session, or had it last.",
	Binding:           "The client does not present the values to which recovery.bind ties the session. The session is not affected.",
	Limit:             "Not recovered: too many recoveries from the client's address had failed, so the pid was not looked up (limits.failed_resumes_per_second_per_address); or the session was taken over too often (limits.takeovers_per_minute_per_session). Parked: the client was closed because it exceeded another limit (holdfast_refused_total).",
	KeyInUse:          "Another connected client has its key (recovery.keyed.query). holdfast serves the later one without recovery.",
	Excluded:          "The client presented a pid, but recovery is now off, or excludes this client (recovery.clients) or namespace (recovery.namespaces).",
	TransportClose:    "The client's connection was closed.",
	TransportError:    "The client's connection broke.",
	PingTimeout:       "The client did not answer a heartbeat.",
	EngineClose:       "The client closed its Engine.IO connection, without a Socket.IO disconnect.",
	GoingAway:         "The user closed or left the page (WebSocket close code 1001).",
	PollError:         "A long-polling request was cancelled, or overlapped another. This is how long polling ends when the client loses the network.",
	ParseError:        "The client violated the Engine.IO or Socket.IO protocol.",
	Handover:          "holdfast closed the client's connection, because it was about to hand its sessions to another process.",
	NotParked:         "The client went away, and recovery is off, or excludes this client or namespace.",
	Internal:          "A panic while this connection was handled. See the log.",
	OwnerGone:         "The replica that had the session no longer exists: it stopped, or was killed.",
	OwnerUnreachable:  "Not recovered: the replica that has the session could not be reached within two seconds. Closed: the session's client returned while this replica could not be reached by the others, and got a fresh session.",
	OwnerIncompatible: "The replica that has the session speaks another version of the peer protocol, as during an update that skips versions.",
	OwnerConflict:     "Not recovered: another replica has this session, and the client already has sessions here. A connection can be at one replica only. Closed: that happened to the session's client elsewhere, and it got a fresh session.",
	PeerLost:          "The replica that relayed the client's connection is gone, or could not be reached for five seconds.",
}

// Meaning describes the reason to operators.
func (r Reason) Meaning() string { return meanings[r] }

// Parse returns the reason with this word, which another version of holdfast may have written. It
// returns false if the reason is unknown.
func Parse(word string) (Reason, bool) {
	_, ok := meanings[Reason(word)]
	return Reason(word), ok
}
