package sioserver

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"
)

// Server is a legacy Socket.IO server. It is an http.Handler, and safe for
// concurrent use.
type Server struct {
	opts Options // immutable
	seq  atomic.Uint32

	mu         sync.RWMutex // guards the fields below; a leaf
	closed     bool
	conns      map[string]*conn // by sid
	webSockets map[*wsConn]struct{}
	namespaces map[string]*Namespace

	loops sync.WaitGroup // readers and writers of WebSockets
}

// New returns a server that has the main namespace, "/".
func New(opts Options) *Server {
	s := &Server{
		opts:       opts.withDefaults(),
		conns:      make(map[string]*conn),
		webSockets: make(map[*wsConn]struct{}),
		namespaces: make(map[string]*Namespace),
	}
	s.Of("/")
	return s
}

// Of returns a namespace, and creates it if necessary. Clients can connect only to namespaces that
// exist.
func (s *Server) Of(name string) *Namespace {
	s.mu.Lock()
	defer s.mu.Unlock()
	nsp := s.namespaces[name]
	if nsp == nil {
		nsp = newNamespace(name)
		s.namespaces[name] = nsp
	}
	return nsp
}

// OnConnect is Of(nsp).OnConnect(fn).
func (s *Server) OnConnect(nsp string, fn func(*Socket) error) { s.Of(nsp).OnConnect(fn) }

// Emit sends an event to every client of the main namespace.
func (s *Server) Emit(event string, args ...any) { s.Of("/").Emit(event, args...) }

// To selects a room of the main namespace.
func (s *Server) To(room string) *Broadcast { return s.Of("/").To(room) }

// Len returns the number of Engine.IO sessions.
func (s *Server) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.conns)
}

// Close ends all sessions and refuses new ones. It waits until the WebSockets
// are closed, for which their clients have half a second.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	conns := make([]*conn, 0, len(s.conns))
	for _, c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.end("server shutting down", closePart)
	}
	s.mu.Lock()
	for w := range s.webSockets { // those that were closing before, too
		w.nc.SetDeadline(time.Now().Add(shutdownGrace))
	}
	s.mu.Unlock()
	s.loops.Wait()
}

// ServeHTTP implements Engine.IO v4 under Options.Path; the rest is not found.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Path, s.opts.Path) {
		http.NotFound(w, r)
		return
	}
	query := r.URL.Query()
	if s.opts.CORSOrigin != "" && serveCORS(w, r, s.opts.CORSOrigin) {
		return
	}
	c := s.lookup(query.Get("sid"))
	if s.opts.offers(WebSocket) && isUpgrade(r) {
		s.serveUpgrade(w, r, query, c)
		return
	}
	if err := s.verify(r, query, c, false); err != nil {
		refuse(w, err)
		return
	}
	if s.opts.Headers != nil {
		s.opts.Headers(w.Header(), r, c == nil)
	}
	switch {
	case c == nil:
		s.servePollingHandshake(w, r, query)
	case r.Method == http.MethodGet:
		c.servePoll(w, r)
	case r.Method == http.MethodPost:
		c.servePost(w, r)
	default:
		w.WriteHeader(http.StatusInternalServerError)
	}
}

// serveCORS does what the cors package does for Express, and reports whether
// it has answered the request.
func serveCORS(w http.ResponseWriter, r *http.Request, origin string) bool {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	if origin != "*" {
		h.Add("Vary", "Origin")
	}
	if r.Method != http.MethodOptions {
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET,HEAD,PUT,PATCH,POST,DELETE")
	if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" {
		h.Set("Access-Control-Allow-Headers", asked)
	}
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusNoContent)
	return true
}

func isUpgrade(r *http.Request) bool {
	return r.Header.Get("Upgrade") != "" &&
		strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade")
}

// requestError is a refusal: a JSON body over HTTP, its message alone where a
// WebSocket was asked for.
type requestError struct {
	status  int
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (e *requestError) Error() string {
	return fmt.Sprintf("legacy: %s (%d)", e.Message, e.Code)
}

var (
	errUnknownTransport = &requestError{http.StatusBadRequest, 0, "Transport unknown"}
	errUnknownSID       = &requestError{http.StatusBadRequest, 1, "Session ID unknown"}
	errBadMethod        = &requestError{http.StatusBadRequest, 2, "Bad handshake method"}
	errBadRequest       = &requestError{http.StatusBadRequest, 3, "Bad request"}
	errBadVersion       = &requestError{http.StatusBadRequest, 5, "Unsupported protocol version"}
)

func refuse(w http.ResponseWriter, err *requestError) {
	body, _ := json.Marshal(err) // two plain fields cannot fail
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(err.status)
	_, _ = w.Write(body)
}

// verify makes the checks of engine.io in their order. c is the session that the request names. It
// is nil if the request names none or the session is unknown.
func (s *Server) verify(r *http.Request, query url.Values, c *conn, upgrade bool) *requestError {
	transport := query.Get("transport")
	switch {
	case !s.opts.offers(transport):
		return errUnknownTransport
	case c != nil && !upgrade && c.transport() != transport:
		return errBadRequest
	case c != nil:
		return nil
	case query.Get("sid") != "":
		return errUnknownSID
	case r.Method != http.MethodGet:
		return errBadMethod
	case transport == WebSocket && !upgrade:
		return errBadRequest
	}
	if s.opts.AllowRequest != nil {
		if err := s.opts.AllowRequest(r); err != nil {
			return &requestError{http.StatusForbidden, 4, err.Error()}
		}
	}
	if query.Get("EIO") != "4" {
		return errBadVersion
	}
	return nil
}

func (s *Server) servePollingHandshake(w http.ResponseWriter, r *http.Request, query url.Values) {
	c := s.open(r, query, nil)
	if c == nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	s.writePayload(w, r, []part{s.openPart(c.sid, Polling)})
}

// serveUpgrade handles requests for a WebSocket: a session of its own, or the
// upgrade of one.
func (s *Server) serveUpgrade(w http.ResponseWriter, r *http.Request, query url.Values, c *conn) {
	reqErr := s.verify(r, query, c, true)
	// engine.io 6.2 notices these two after it has switched protocols.
	late := reqErr == errUnknownTransport || reqErr == errBadVersion
	if reqErr != nil && !late {
		h := w.Header()
		h.Set("Connection", "close")
		h.Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(reqErr.Message))
		return
	}
	extra := w.Header().Clone() // CORS
	if s.opts.Headers != nil {
		s.opts.Headers(extra, r, query.Get("sid") == "")
	}
	nc, rw, _, err := ws.HTTPUpgrader{Header: extra, Timeout: 10 * time.Second}.Upgrade(r, w)
	if err != nil { // the client was told
		if nc != nil {
			nc.Close()
		}
		return
	}
	if late {
		_, _ = fmt.Fprintf(nc, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-type: text/html\r\n"+
			"Content-Length: %d\r\n\r\n%s", len(reqErr.Message), reqErr.Message)
		nc.Close()
		return
	}
	early, _ := rw.Peek(rw.Reader.Buffered())
	wc := newWSConn(s, nc, bytes.Clone(early))
	if !s.adopt(wc) {
		nc.Close()
		return
	}
	fresh := c == nil
	switch {
	case query.Get("transport") == Polling:
		c = nil
	case fresh:
		c = s.open(r, query, wc)
	case !c.startProbe(wc):
		c = nil
	}
	if c == nil {
		wc.close(ws.CompiledClose)
		c = &conn{} // of which wc is no transport
	}
	go wc.readLoop(c) // ends with the connection; adopt has counted it
}

// open starts a session, on a WebSocket if wc is not nil. It returns nil if
// the server is closed.
func (s *Server) open(r *http.Request, query url.Values, wc *wsConn) *conn {
	headers := r.Header.Clone()
	headers.Set("Host", r.Host)
	c := newConn(s, s.newID(), Handshake{
		Query: query, Headers: headers, Address: r.RemoteAddr, Time: time.Now(),
	}, wc)
	if wc != nil {
		wc.send(s.openPart(c.sid, WebSocket)) // before anything else can be sent
	}
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.conns[c.sid] = c
	}
	s.mu.Unlock()
	if closed {
		c.end("server shutting down", closePart)
		return nil
	}
	return c
}

// openPart is the handshake, its keys in the order of engine.io.
func (s *Server) openPart(sid, transport string) part {
	upgrades := []string{}
	if transport == Polling && s.opts.offers(WebSocket) {
		upgrades = []string{WebSocket}
	}
	data, _ := json.Marshal(struct { // strings and numbers cannot fail
		SID          string   `json:"sid"`
		Upgrades     []string `json:"upgrades"`
		PingInterval int64    `json:"pingInterval"`
		PingTimeout  int64    `json:"pingTimeout"`
		MaxPayload   int64    `json:"maxPayload"`
	}{
		sid, upgrades,
		s.opts.PingInterval.Milliseconds(), s.opts.PingTimeout.Milliseconds(),
		s.opts.MaxPayloadBytes,
	})
	return newPart([]byte("0"), data, ws.OpText)
}

// newID returns an id of 20 characters, as the base64id package makes them:
// 11 random bytes and a sequence number.
func (s *Server) newID() string {
	var b [15]byte
	_, _ = rand.Read(b[:11]) // never fails: see crypto/rand
	binary.BigEndian.PutUint32(b[11:], s.seq.Add(1)-1)
	return base64.URLEncoding.EncodeToString(b[:])
}

// adopt counts a WebSocket in, unless the server is closed.
func (s *Server) adopt(w *wsConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.webSockets[w] = struct{}{}
	s.loops.Add(1) // for its readLoop
	return true
}

func (s *Server) forget(w *wsConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.webSockets, w)
}

// bound limits the time that a WebSocket has to close.
func (s *Server) bound(w *wsConn) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	grace := closeGrace
	if s.closed {
		grace = shutdownGrace
	}
	w.nc.SetDeadline(time.Now().Add(grace))
}

func (s *Server) lookup(sid string) *conn {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.conns[sid]
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c.sid)
}

// namespace returns nil if there is none of that name.
func (s *Server) namespace(name string) *Namespace {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.namespaces[name]
}
