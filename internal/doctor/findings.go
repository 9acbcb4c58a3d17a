package doctor

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast/holdfast/internal/probe"
)

const (
	oldServerAdvice = "Set upstream.protocol: 3. holdfast then translates for clients of socket.io 3 and 4, and recovers those from 4.6 on (docs/migrating-from-2.md)."
	lostAdvice      = "Several processes share this address, and requests of one connection reach different ones. Polling does not work then, with holdfast or without: " +
		"make it sticky (@socket.io/sticky for Node.js clusters), or use WebSocket only."
)

// certificate reports the server's certificate, if it has one.
func (l *look) certificate() {
	if len(l.e.tls.PeerCertificates) == 0 {
		return
	}
	leaf := l.e.tls.PeerCertificates[0]
	days := int(math.Floor(time.Until(leaf.NotAfter).Hours() / 24))
	until := fmt.Sprintf("%s (%d days)", leaf.NotAfter.UTC().Format(time.DateOnly), days)
	switch {
	case l.o.Insecure:
		l.add("tls", Note, CodeCertificate, "the certificate was not checked; it is valid until "+until, "Set upstream.tls.ca_file instead of upstream.tls.insecure_skip_verify.")
	case days < 14:
		l.add("tls", Note, CodeCertificate, "the certificate expires on "+until, "Renew it: holdfast refuses a server whose certificate has expired.")
	default:
		l.add("tls", OK, CodeCertificate, "the certificate is valid until "+until, "")
	}
}

// nameSoftware reports which server it is. refusal is how it refuses Engine.IO 3, or nil.
func (l *look) nameSoftware(refusal *unexpected) {
	s := &l.r.Server
	var how string
	switch {
	case s.Software != "":
		how = ", says the client that it serves to pages"
	case refusal != nil && refusal.fromPython():
		s.Software, how = "python-socketio", ", as it refuses old clients"
	case s.EngineIO[0] == 3:
		s.Software, how = "Socket.IO 2 or earlier", ", by its protocol"
	case refusal != nil && refusal.engineCode() == probe.EngineOldVersion && s.MaxPayload > 0:
		s.Software, how = "socket.io 4.5 or later", ", by its handshake; it serves no client to pages"
	case refusal != nil && refusal.engineCode() == probe.EngineOldVersion:
		s.Software, how = "socket.io 3 or 4", ", by its handshake; it serves no client to pages"
	default:
		l.add("server", OK, CodeSoftware, "a Socket.IO server of unknown kind", "")
		return
	}
	l.add("server", OK, CodeSoftware, s.Software+how, "")
}

func (l *look) reportProtocol() {
	switch versions := l.r.Server.EngineIO; {
	case versions[0] == 3:
		l.add("protocol", Note, CodeOldServer, "Engine.IO 3, which clients of socket.io 3 and 4 do not speak", oldServerAdvice)
	case slices.Contains(versions, 3):
		l.add("protocol", OK, CodeProtocol, "Engine.IO 4, and 3 for clients of Socket.IO 2 (allowEIO3)", "")
	case !slices.Contains(l.r.Server.Transports, polling):
		l.add("protocol", OK, CodeProtocol, "Engine.IO 4", "")
	default:
		l.add("protocol", OK, CodeProtocol, "Engine.IO 4; clients of Socket.IO 2 (Engine.IO 3) are refused", "")
	}
}

// noTransport reports why no session could be opened.
func (l *look) noTransport(pollingErr, webSocketErr error) {
	l.found = true // it has answered in Engine.IO's words
	l.add("transports", Fail, CodeNoTransport, fmt.Sprintf("neither polling nor WebSocket works: %s; %s", plain(pollingErr), plain(webSocketErr)),
		"Look at the server's log. It may refuse this client over WebSocket, where a refusal has no reason: give what your clients send with -header, -query or -origin.")
}

func (l *look) reportTransports(webSocketErr error) {
	s := l.r.Server
	switch {
	case len(s.Transports) == 2 && s.Upgrade:
		l.add("transports", OK, CodeTransports, "polling, WebSocket, and the upgrade from one to the other", "")
	case len(s.Transports) == 2:
		l.add("transports", Note, CodeTransports, "polling and WebSocket, but no upgrade: clients that begin with polling stay with it", "")
	case s.Transports[0] == webSocket:
		l.add("transports", Note, CodeTransports, "WebSocket only; clients need transports: [\"websocket\"]", "")
	case s.Upgrade:
		l.add("transports", Note, CodeTransports, "polling only: the server offers WebSocket, but "+plain(webSocketErr),
			"A proxy in front of the server may not forward WebSockets. Use the server's own address for holdfast.")
	default:
		l.add("transports", Note, CodeTransports, "polling only: the server offers no WebSocket", "")
	}
}

func (l *look) reportNamespace(r reply) {
	detail := "a client can connect to " + l.o.Namespace
	switch {
	case r.events == 1:
		detail += "; the server sends one event then"
	case r.events > 1:
		detail += fmt.Sprintf("; the server sends %d events then", r.events)
	}
	l.add("namespace", OK, CodeConnected, detail, "")
}

func (l *look) reportNoRecovery() {
	l.add("recovery", OK, CodeNoRecovery, "the server has no recovery of its own", "")
}

func (l *look) reportOwnRecovery() {
	l.add("recovery", Fail, CodeOwnRecovery, "the server recovers connections itself (connectionStateRecovery)",
		"You may not need holdfast: it passes such sessions through unchanged, and adds nothing. docs/is-holdfast-for-me.md compares the two. "+
			"To have holdfast recover them, turn connectionStateRecovery off in the server.")
}

func (l *look) reportHoldfast() {
	l.add("recovery", Fail, CodeHoldfast, "this address is holdfast's already",
		"Check it with holdfast probe. To look at the server behind it, give the server's own address.")
}

func (l *look) reportOneConnection(u *unexpected) {
	l.add("access", Note, CodeOneConnection, "a second handshake of the same client is refused while the first is connected: "+u.saying(),
		"A client that returns would be locked out by its own parked session. Set upstream.handshake: lazy, so that it makes no handshake with the server.")
}

func (l *look) reportHeartbeats() {
	interval, timeout := time.Duration(l.r.Server.PingIntervalMS)*time.Millisecond, time.Duration(l.r.Server.PingTimeoutMS)*time.Millisecond
	detail := fmt.Sprintf("a ping every %v, and %v to answer it: a connection that dies silently is noticed after %v at most", interval, timeout, interval+timeout)
	switch {
	case interval > 50*time.Second:
		l.add("heartbeats", Note, CodeHeartbeats, detail,
			"Many load balancers cut connections that are silent for 60 s. Set engineio.ping_interval, such as 25s: holdfast then pings the clients more often.")
	case interval+timeout > 2*time.Minute:
		l.add("heartbeats", Note, CodeHeartbeats, detail, "Set engineio.ping_timeout, such as 20s, so that holdfast and its clients notice earlier.")
	default:
		l.add("heartbeats", OK, CodeHeartbeats, detail, "")
	}
}

func (l *look) reportPayload() {
	if l.r.has(CodeOldServer) {
		return // holdfast has its own limit then
	}
	if n := l.r.Server.MaxPayload; n > 0 {
		l.add("payload", OK, CodePayload, "a client may send "+strconv.FormatInt(n, 10)+" bytes at a time", "")
		return
	}
	l.add("payload", Note, CodePayload, "the server does not say how much a client may send at a time (maxPayload, since socket.io 4.5)",
		"Set engineio.max_payload to the server's maxHttpBufferSize (1MB unless it was changed). Otherwise holdfast accepts more from a client than the server does.")
}

func (l *look) reportCookies() {
	if names := l.r.Server.Cookies; len(names) > 0 {
		l.add("cookies", OK, CodeCookies, "the handshake sets "+strings.Join(names, ", ")+", which clients get unchanged", "")
	}
}

// reportCORS reports whether pages on origin may connect. refusal is how the server refused its
// handshake, or nil.
func (l *look) reportCORS(origin string, refusal *unexpected) {
	allowed := l.r.Server.AllowOrigin
	asked := l.o.Origin != ""
	switch {
	case refusal != nil:
		l.add("cors", OK, CodeCORS, "pages of other origins are refused: "+refusal.saying(), "")
	case allowed == "*", allowed == origin && !asked:
		l.add("cors", OK, CodeCORS, "pages of all origins may connect", "")
	case allowed == origin:
		l.add("cors", OK, CodeCORS, "pages on "+origin+" may connect", "")
	case asked:
		l.add("cors", Note, CodeCORS, "browsers hide the server's answers from pages on "+origin+": Access-Control-Allow-Origin is "+orMissing(allowed),
			"Allow the origin in the server (its option cors). holdfast passes the server's headers on, and adds none.")
	case allowed == "":
		l.add("cors", OK, CodeCORS, "for pages of its own origin only: the server sends no CORS headers", "")
	default:
		l.add("cors", OK, CodeCORS, "for pages on "+allowed, "")
	}
}

func orMissing(s string) string {
	if s == "" {
		return "missing"
	}
	return s
}

// reportBundle warns of pages that load an old client from the server.
func (l *look) reportBundle() {
	if v := l.r.Server.ClientBundle; v != "" && !canResume(v) {
		l.add("clients", Note, CodeOldBundle, fmt.Sprintf("pages that load the client from the server (%ssocket.io.js) get %s, which cannot resume; clients can from 4.6 on", l.o.Path, v),
			"Set client_bundle.dir to the folder dist of a newer socket.io-client, and holdfast serves that one instead. Clients that are bundled with the page are not affected.")
	}
}

// canResume reports whether a client of this version knows connection state recovery.
func canResume(version string) bool {
	parts := strings.SplitN(version, ".", 3)
	major, err := strconv.Atoi(parts[0])
	if err != nil || len(parts) < 3 {
		return false
	}
	minor, err := strconv.Atoi(parts[1])
	return err == nil && (major > 4 || major == 4 && minor >= 6)
}

// reportLostSessions reports that the server forgot a session immediately.
func (l *look) reportLostSessions() {
	if !l.lost || l.r.has(CodeSessionUnknown) {
		return
	}
	result := Fail
	if slices.Contains(l.r.Server.Transports, webSocket) {
		result = Note
	}
	l.add("cluster", result, CodeSessionUnknown, "the server did not know a session that it had just opened over polling", lostAdvice)
}
