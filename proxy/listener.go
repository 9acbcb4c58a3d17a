package proxy

import (
	"log/slog"
	"net"
	"net/http"

	"github.com/holdfast/holdfast/internal/accept"
	"github.com/holdfast/holdfast/internal/httpmsg"
)

// Listener returns a listener for an http.Server that serves s. It counts the connections of ln and
// closes those over a limit. Where possible it serves WebSocket handshakes without the http.Server,
// which saves memory. tls says that the caller wraps the connections in TLS.
func (s *Server) Listener(ln net.Listener, tls bool) net.Listener {
	return accept.Listen(ln, accept.Options{
		TLS:      tls,
		Limits:   s.connectionLimits,
		Match:    s.matchUpgrade,
		Begin:    s.conns.opening,
		Refused:  s.refused,
		Failed:   s.acceptFailed,
		NoLoop:   s.noLoop,
		Panicked: s.reportPanic,
	})
}

func (s *Server) connectionLimits() accept.Limits {
	set := s.settings()
	return accept.Limits{
		MaxConnections:           set.Limits.MaxConnections,
		MaxConnectionsPerAddress: set.Limits.MaxConnectionsPerAddress,
		Exempt:                   set.trusted.Contains,
		HeadTimeout:              set.Limits.ReadHeaderTimeout,
		HeadBytes:                set.Limits.HeaderBytes.Int(),
		HandshakeTimeout:         set.Upstream.HandshakeTimeout,
	}
}

func (s *Server) acceptFailed(err error) {
	if accept.IsOutOfDescriptors(err) {
		s.outOfDescriptors(err)
		return
	}
	s.limitedLog.Log(slog.LevelWarn, "", "a connection could not be accepted", "error", err)
}

// noLoop reports that goroutines serve the connections, although the system supports an event loop.
func (s *Server) noLoop(err error) {
	s.log.Warn("no event loop accepts connections: goroutines serve them, which takes more memory for each", "error", err)
}

// matchUpgrade returns the handler of a WebSocket handshake that does not need net/http: a new
// client's handshake, or the upgrade of a known client. It returns nil for all other requests.
func (s *Server) matchUpgrade(r *http.Request) http.HandlerFunc {
	if !httpmsg.IsUpgrade(r) || r.Method != http.MethodGet || !s.settings().isEngineIO(r) {
		return nil
	}
	q := r.URL.Query()
	if q.Get("transport") != "websocket" {
		return nil
	}
	serve := func(w http.ResponseWriter, r *http.Request) { s.serveEngineIO(w, r, q) }
	if sid := q.Get("sid"); sid != "" {
		c := s.conns.client(sid)
		if c == nil {
			return nil
		}
		serve = func(w http.ResponseWriter, r *http.Request) { c.serve(w, r, q) }
	} else if q.Get("EIO") != "4" && !s.settings().handlesV3(q) || q.Has("j") {
		return nil
	}
	return func(w http.ResponseWriter, r *http.Request) {
		defer s.recoverRequest()
		serve(w, r)
	}
}
