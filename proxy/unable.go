package proxy

import (
	"net/http"
	"net/url"

	"github.com/holdfast/holdfast/internal/knownclients"
)

// canResume reports whether the client of a handshake gets a pid, offsets, and parked sessions.
// Clients that are known to be unable to resume do not, unless the configuration says so: they
// would gain nothing, and an offset is one more argument for their handlers.
func (h *handshaker) canResume(r *http.Request, q url.Values) bool {
	set := h.settings()
	if set.Recovery.MaxDisconnectionDuration <= 0 || !set.clientFilter(q, r.UserAgent()) {
		return false
	}
	if !set.Recovery.Clients.ExcludesKnown() {
		return true
	}
	known := knownclients.Identify(r)
	if known == nil {
		return true
	}
	h.metrics.ClientsUnable.Inc()
	if _, logged := h.unableLogged.LoadOrStore(known.Name, true); !logged {
		h.log.Info("a client is served without recovery: its library cannot resume sessions (logged once for each library)",
			"library", known.Name)
	}
	return false
}
