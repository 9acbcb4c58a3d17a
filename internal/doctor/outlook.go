package doctor

import (
	"slices"

	"github.com/holdfast/holdfast/internal/config"
)

// outlook says what recovery will do for the clients of this server, and what it will not.
func (r *Report) outlook() {
	switch {
	case r.has(CodeHoldfast):
		return
	case r.has(CodeOwnRecovery):
		r.WillNot = append(r.WillNot, "It adds nothing: the server's own recovery continues to work through holdfast as it does without.")
		return
	case r.has(CodeOtherParser):
		r.WillNot = append(r.WillNot, "It recovers no client that uses this parser. Their connections are relayed as they are.")
		return
	}
	wait := config.Default().Recovery.MaxDisconnectionDuration
	old := r.has(CodeOldServer)
	if old {
		r.Will = append(r.Will, "Clients of socket.io 3 and 4 can connect to this server, because holdfast translates. So they can be upgraded before the server.")
	}
	r.Will = append(r.Will,
		"A client (socket.io-client 4.6 or later) that loses its connection gets its socket back if it returns within "+short(wait)+
			": same id, same rooms, same data, and every event that it missed, once and in order. socket.recovered is true.",
		"The server needs no change. It does not see the loss; it sees the disconnect only of clients that do not return.",
	)
	if r.failed() {
		r.Will = append(r.Will, "This assumes that clients can connect. The doctor could not.")
	}
	r.WillNot = append(r.WillNot, "Clients before 4.6, and most in other languages, reconnect with a new socket, as without holdfast, unless they send a key (recovery.keyed).")
	switch versions := r.Server.EngineIO; {
	case old, slices.Contains(versions, 3):
		r.WillNot = append(r.WillNot, "Clients of Socket.IO 2 pass through unchanged, without recovery.")
	case slices.Contains(versions, 4) && slices.Contains(r.Server.Transports, polling):
		r.WillNot = append(r.WillNot, "Clients of Socket.IO 2 stay refused: the server does not take them.")
	}
	r.WillNot = append(r.WillNot,
		"A restart of the server ends its sockets, and a client that returns later than "+short(wait)+" gets a new one.",
		"What a client sends into a dying connection is lost, as without holdfast. Its options retries and ackTimeout help.",
	)
}
