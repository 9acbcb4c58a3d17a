package doctor

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/holdfast/holdfast/internal/probe"
)

// anotherOrigin stands for any page of another site, if -origin names none.
const anotherOrigin = "https://another.example"

// look is one examination.
type look struct {
	e     *examiner
	o     Options
	r     Report
	found bool // there is a Socket.IO server
	lost  bool // it did not know a session that it had just opened
}

// Look examines the server in o. It returns within a few multiples of o.Timeout, or soon after ctx
// is done.
func Look(ctx context.Context, o Options) Report {
	l := &look{e: newExaminer(o), o: o, r: Report{
		Version: 1, URL: o.URL.String(), Path: o.Path, Namespace: o.Namespace,
		Server:   Server{EngineIO: []int{}, Transports: []string{}},
		Findings: []Finding{}, Will: []string{}, WillNot: []string{},
	}}
	l.examine(ctx)
	l.r.conclude(l.found)
	if l.found {
		l.r.outlook()
	}
	return l.r
}

func (l *look) add(topic string, result Result, code Code, detail, advice string) {
	l.r.Findings = append(l.r.Findings, Finding{topic, result, code, detail, advice})
}

// examine asks the server everything, or until an answer makes the rest pointless.
func (l *look) examine(ctx context.Context) {
	first, pollingErr := l.e.openPolling(ctx, 4, l.o.Origin)
	l.certificate()
	if pollingErr != nil && !l.goesOnAfter(pollingErr) {
		if l.found {
			l.software(ctx)
		}
		return
	}
	version := 4
	if first != nil {
		l.found = true
		version = first.version
		l.record(first)
		l.leave(first)
	}
	webSocketErr := l.tryWebSocket(ctx, version)
	if len(l.r.Server.Transports) == 0 {
		l.noTransport(pollingErr, webSocketErr)
		return
	}
	l.found = true
	refusal := l.versions(ctx, version)
	l.software(ctx)
	l.nameSoftware(refusal)
	l.reportProtocol()
	l.reportTransports(webSocketErr)
	if version == 4 {
		l.namespace(ctx)
	}
	l.reportHeartbeats()
	l.reportPayload()
	l.reportCookies()
	l.cors(ctx, first)
	l.reportBundle()
	l.reportLostSessions()
}

// goesOnAfter reports a failed polling handshake, and whether to continue: only if the server
// offers no polling.
func (l *look) goesOnAfter(err error) bool {
	u, ok := errors.AsType[*unexpected](err)
	if !ok {
		l.r.Findings = append(l.r.Findings, explainNetwork(err))
		return false
	}
	if u.engineCode() == probe.EngineUnknownTransport {
		return true
	}
	f, found := u.explain()
	l.found = found
	l.r.Findings = append(l.r.Findings, f)
	return false
}

// record keeps what the first handshake says.
func (l *look) record(s *pollingSession) {
	server := &l.r.Server
	server.Transports = append(server.Transports, polling)
	server.PingIntervalMS, server.PingTimeoutMS, server.MaxPayload = s.handshake.PingInterval, s.handshake.PingTimeout, s.handshake.MaxPayload
	server.Upgrade = slices.Contains(s.handshake.Upgrades, webSocket)
	server.AllowOrigin = s.first.header.Get("Access-Control-Allow-Origin")
	for _, c := range (&http.Response{Header: s.first.header}).Cookies() {
		server.Cookies = append(server.Cookies, c.Name)
	}
}

// leave closes a session, and notices if the server does not know it any more.
func (l *look) leave(s *pollingSession) {
	if u, ok := errors.AsType[*unexpected](s.end()); ok && u.unknownSession() {
		l.lost = true
	}
}

func (l *look) tryWebSocket(ctx context.Context, version int) error {
	s, h, err := l.e.openWebSocket(ctx, version)
	if err != nil {
		return err
	}
	s.close()
	server := &l.r.Server
	if len(server.Transports) == 0 {
		server.PingIntervalMS, server.PingTimeoutMS, server.MaxPayload = h.PingInterval, h.PingTimeout, h.MaxPayload
	}
	server.Transports = append(server.Transports, webSocket)
	return nil
}

// versions finds out which versions of Engine.IO the server accepts, and returns how it refuses
// version 3.
func (l *look) versions(ctx context.Context, version int) *unexpected {
	l.r.Server.EngineIO = append(l.r.Server.EngineIO, version)
	if version == 3 || !slices.Contains(l.r.Server.Transports, polling) {
		return nil
	}
	s, err := l.e.openPolling(ctx, 3, l.o.Origin)
	if err == nil {
		if s.version == 3 {
			l.r.Server.EngineIO = append(l.r.Server.EngineIO, 3)
		}
		l.leave(s)
	}
	u, _ := errors.AsType[*unexpected](err)
	return u
}

// The version of the client that a server serves is its ETag, and in its first line.
var (
	bundleETag   = regexp.MustCompile(`^(?:W/)?"(\d+\.\d+\.\d+[\w.-]*)"$`)
	bundleBanner = regexp.MustCompile(`Socket\.IO v(\d+\.\d+\.\d+[\w.-]*)`)
)

// software asks for the client that the server serves to pages, which names its version. The
// server's own is the same, or close to it before Socket.IO 3.
func (l *look) software(ctx context.Context) {
	a, err := l.e.request(ctx, l.e.newHTTP(), http.MethodGet, "socket.io.js", "", "", "")
	if err != nil || a.status != http.StatusOK {
		return
	}
	m := bundleETag.FindStringSubmatch(a.header.Get("ETag"))
	if m == nil {
		m = bundleBanner.FindStringSubmatch(string(a.body[:min(len(a.body), 4096)]))
	}
	if m != nil {
		l.r.Server.ClientBundle = m[1]
		l.r.Server.Software = "socket.io " + m[1]
	}
}

// open opens a session over a transport that works: WebSocket, if it does.
func (l *look) open(ctx context.Context) (session, error) {
	if slices.Contains(l.r.Server.Transports, webSocket) {
		s, _, err := l.e.openWebSocket(ctx, 4)
		if err != nil {
			return nil, err // not s, which would be a session that is nil
		}
		return s, nil
	}
	s, err := l.e.openPolling(ctx, 4, l.o.Origin)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// namespace connects as a client does, and looks for recovery.
func (l *look) namespace(ctx context.Context) {
	s, err := l.open(ctx)
	if err != nil {
		l.add("namespace", Fail, CodeUnanswered, "a further handshake failed: "+plain(err), "Look at the server's log, and run the doctor again.")
		return
	}
	defer s.close()
	reply, problem := connect(ctx, s, l.o)
	if problem != nil {
		l.r.Findings = append(l.r.Findings, *problem)
		return
	}
	l.reportNamespace(reply)
	switch {
	case reply.SID == "": // Socket.IO 2 over WebSocket, where the handshake does not tell the version
		l.r.Server.EngineIO = []int{3}
		l.reportProtocol()
	case isHoldfastPID(reply.PID):
		l.reportHoldfast()
	case reply.PID != "":
		l.r.Server.OwnRecovery = true
		l.reportOwnRecovery()
	default:
		l.reportNoRecovery()
	}
	if again, err := l.open(ctx); err == nil {
		again.close()
	} else if u, ok := errors.AsType[*unexpected](err); ok {
		l.r.Server.OneConnection = true
		l.reportOneConnection(u)
	}
	leave, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = s.send(leave, disconnectPacket(l.o.Namespace)) // close follows in any case
}

// cors finds out whether pages of other origins may connect. first is the first session, or nil.
func (l *look) cors(ctx context.Context, first *pollingSession) {
	switch {
	case first == nil:
		return // CORS is about polling
	case l.o.Origin != "":
		l.reportCORS(l.o.Origin, nil)
		return
	}
	s, err := l.e.openPolling(ctx, 4, anotherOrigin)
	if err != nil {
		u, _ := errors.AsType[*unexpected](err)
		l.reportCORS(anotherOrigin, u)
		return
	}
	l.r.Server.AllowOrigin = s.first.header.Get("Access-Control-Allow-Origin")
	l.leave(s)
	l.reportCORS(anotherOrigin, nil)
}
