package imitation

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"

	"github.com/gobwas/ws"
)

// Server imitates a server on the wire. Its application has the namespaces "/" and "/admin", in
// each of which it emits "early" when a client connects, and answers "echo". It refuses a handshake
// with "deny" in its query. It is an http.Handler, and safe for concurrent use.
type Server struct {
	lib     *ServerLibrary
	sockets bool // it takes WebSockets

	mu      sync.Mutex // guards the fields below, and all of the connections
	conns   map[string]*serverConn
	queries []url.Values // of handshakes
	ended   []string     // sids
	faults  []string     // what the library would have mishandled
}

// NewServer returns a server that takes polling, and WebSockets if sockets is set.
func NewServer(lib *ServerLibrary, sockets bool) *Server {
	return &Server{lib: lib, sockets: sockets, conns: make(map[string]*serverConn)}
}

// Queries returns the queries of all handshakes.
func (s *Server) Queries() []url.Values {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.queries)
}

// Ended returns the sids of connections that have ended.
func (s *Server) Ended() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ended)
}

// Faults returns what the library would have mishandled.
func (s *Server) Faults() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.faults)
}

// Emit sends an event to all clients in a namespace.
func (s *Server) Emit(namespace, event string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		if c.namespaces[namespace] {
			c.emitLocked(namespace, event, args...)
		}
	}
}

// Disconnect ends the connection of all clients, as disconnect(true) does.
func (s *Server) Disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.sendLocked(frame3{data: s.lib.closeText})
		c.endLocked()
	}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	socket := q.Get("transport") == "websocket"
	c := s.find(q.Get("sid"))
	switch {
	case q.Get("EIO") == "4":
		s.answer(w, answer{400, `"unsupported version"`}, "text/plain")
	case socket && !s.sockets:
		s.answer(w, s.lib.noSocket, "application/json")
	case c == nil && q.Has("sid"):
		s.answer(w, s.lib.unknownSID, "application/json")
	case c == nil && q.Has("deny"):
		s.answer(w, s.lib.denied, "application/json")
	case socket:
		s.serveSocket(w, r, c)
	case r.Method == http.MethodPost:
		s.servePost(w, r, c)
	default:
		s.servePoll(w, r, c)
	}
}

func (s *Server) find(sid string) *serverConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns[sid]
}

// open handles a handshake.
func (s *Server) open(q url.Values) *serverConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &serverConn{s: s, sid: s.lib.sid(), namespaces: make(map[string]bool), changed: sync.NewCond(&s.mu)}
	s.conns[c.sid] = c
	s.queries = append(s.queries, q)
	upgrades := "[]"
	if s.sockets {
		upgrades = `["websocket"]` // netty-socketio says so over a WebSocket, too
	}
	c.sendLocked(frame3{data: fmt.Sprintf(`0{"sid":"%s","upgrades":%s,"pingInterval":25000,"pingTimeout":60000}`, c.sid, upgrades)})
	return c
}

// serveSocket serves a WebSocket. c is nil unless it is an upgrade.
func (s *Server) serveSocket(w http.ResponseWriter, r *http.Request, c *serverConn) {
	conn, _, _, err := ws.UpgradeHTTP(r, w)
	if err != nil {
		return
	}
	defer conn.Close()
	probing := c != nil
	if !probing {
		c = s.open(r.URL.Query())
		s.locked(func() {
			c.useLocked(conn)
			c.connectLocked("/")
		})
	}
	s.readSocket(c, conn, probing)
	s.locked(func() {
		if c.conn == conn {
			c.endLocked()
		}
	})
}

func (s *Server) readSocket(c *serverConn, conn io.ReadWriter, probing bool) {
	for {
		f, err := ws.ReadFrame(conn)
		if err != nil || f.Header.OpCode == ws.OpClose {
			return
		}
		f = ws.UnmaskFrameInPlace(f)
		data := string(f.Payload)
		switch {
		case f.Header.OpCode == ws.OpPing:
			_ = ws.WriteFrame(conn, ws.NewPongFrame(f.Payload)) // the reader sees the end
		case probing && data == "2probe":
			_ = ws.WriteFrame(conn, ws.NewTextFrame([]byte("3probe")))
			s.locked(func() { c.sendLocked(frame3{data: "6"}) }) // ends the poll
		case probing && data == "5":
			probing = false
			s.locked(func() { c.useLocked(conn) })
		default:
			s.locked(func() { c.receiveLocked(frame3{f.Header.OpCode == ws.OpBinary, data}) })
		}
	}
}

func (s *Server) locked(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
}

// servePoll serves a handshake or a poll.
func (s *Server) servePoll(w http.ResponseWriter, r *http.Request, c *serverConn) {
	if c == nil {
		c = s.open(r.URL.Query())
		if !s.lib.openAlone {
			s.locked(func() { c.connectLocked("/") })
		}
		defer s.locked(func() { c.connectLocked("/") })
	}
	defer context.AfterFunc(r.Context(), c.changed.Broadcast)()
	s.mu.Lock()
	for len(c.queue) == 0 && !c.over && r.Context().Err() == nil {
		c.changed.Wait()
	}
	n := len(c.queue)
	if s.lib.maxPolled > 0 {
		n = min(n, s.lib.maxPolled)
	}
	frames := c.queue[:n:n]
	c.queue = c.queue[n:]
	s.mu.Unlock()
	if n == 0 {
		s.answer(w, s.lib.unknownSID, "application/json")
		return
	}
	s.answer(w, answer{http.StatusOK, encodePayload3(frames)}, "application/octet-stream")
}

func (s *Server) servePost(w http.ResponseWriter, r *http.Request, c *serverConn) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	frames, err := decodePayload3(string(body))
	switch {
	case err != nil:
		s.fault(err.Error())
	case s.lib.maxPostBytes > 0 && len(body) > s.lib.maxPostBytes:
		s.fault(fmt.Sprintf("a POST of %d bytes", len(body)))
	case s.lib.maxPostPackets > 0 && len(frames) > s.lib.maxPostPackets:
		s.fault(fmt.Sprintf("a POST of %d packets", len(frames)))
	default:
		s.locked(func() { c.postedLocked(frames) })
		s.answer(w, answer{http.StatusOK, s.lib.postAnswer}, "text/html")
		return
	}
	s.answer(w, answer{http.StatusBadRequest, ""}, "text/plain")
}

func (s *Server) fault(what string) { s.locked(func() { s.faults = append(s.faults, what) }) }

// answer answers a request.
func (s *Server) answer(w http.ResponseWriter, a answer, contentType string) {
	if !s.lib.closesHTTP {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(a.status)
		_, _ = io.WriteString(w, a.body) // the client may have gone
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\ncontent-type: %s\r\nconnection: keep-alive\r\naccess-control-allow-origin: *\r\ncontent-length: %d\r\n\r\n%s",
		a.status, http.StatusText(a.status), contentType, len(a.body), a.body) // the client may have gone
}
