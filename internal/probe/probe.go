package probe

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

const (
	// attempts is how often the probe reconnects for one session. With a few replicas, one of the
	// attempts is likely to reach the right one.
	attempts = 6
	// quiet is how long no event must arrive before the probe continues.
	quiet = 150 * time.Millisecond
	// maxListen bounds the wait for quiet, for servers that never stop sending.
	maxListen = time.Second
)

// ExitError is returned for a report that is not ExitOK, after it was written.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("probe: exit status %d", e.Code) }

// Status returns the exit status.
func (e *ExitError) Status() int { return e.Code }

// Command runs `holdfast probe` with its arguments, and writes the report to stdout. Errors are an
// *ExitError, or wrap ErrUsage.
func Command(ctx context.Context, args []string, stdout io.Writer) error {
	o, err := ParseArgs(args)
	if errors.Is(err, flag.ErrHelp) {
		return Usage(stdout)
	} else if err != nil {
		return err
	}
	report := Run(ctx, o)
	write := report.WriteText
	if o.JSON {
		write = report.WriteJSON
	}
	if err := write(stdout); err != nil {
		return err
	}
	if report.Exit != ExitOK {
		return &ExitError{report.Exit}
	}
	return nil
}

// Run probes the address in o. It returns within a few multiples of o.Timeout, or soon after ctx is
// done.
func Run(ctx context.Context, o Options) Report {
	jar, err := cookiejar.New(nil)
	if err != nil {
		panic(err) // impossible without options
	}
	p := &prober{o: o, jar: jar, tls: &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		InsecureSkipVerify: o.Insecure, //nolint:gosec // the user's choice, off by default
	}}
	r := Report{Version: 1, URL: o.URL.Redacted(), Path: o.Path, Namespace: o.Namespace}
	var first *conn // kept for its handshake and response headers
	add := func(name string, fn func() (detail string, err error)) {
		start := time.Now()
		p.key = rand.Text() // each check is a separate client
		detail, err := fn()
		c := Check{Name: name, Result: OK, Code: CodeRecovered, Detail: detail, Seconds: time.Since(start).Seconds()}
		var skip *skipped
		switch {
		case errors.As(err, &skip):
			c.Result, c.Code, c.Detail = Skip, skip.code, skip.why
		case err != nil:
			w := explain(err)
			c.Result, c.Code, c.Detail, c.Remedy = Fail, w.code, w.detail, w.remedy
		}
		r.Checks = append(r.Checks, c)
	}
	add(polling, func() (string, error) { return p.checkPolling(ctx, &first) })
	add(webSocket, func() (string, error) { return p.checkWebSocket(ctx, r.Checks[0], first) })
	add("upgrade", func() (string, error) { return p.checkUpgrade(ctx, r.Checks, first) })
	if c := &r.Checks[0]; r.Checks[1].Result == OK && (c.Code == CodeUnanswered || c.Code == CodeTimeout) {
		c.Code = CodePollingHeld
		c.Detail += "; WebSocket works, so a proxy in between probably holds polling responses back"
		c.Remedy = "Turn off the proxy's buffering and caching of requests and responses for this path, and let it wait at least a minute for a response."
	}
	if o.Origin != "" && first != nil {
		r.Checks = append(r.Checks, p.checkCORS(first))
	}
	if c, ok := p.checkCookies(); ok {
		r.Checks = append(r.Checks, c)
	}
	r.conclude()
	return r
}

// skipped says why a check was not made.
type skipped struct {
	code Code
	why  string
}

func (s *skipped) Error() string { return s.why }

// checkPolling stores the conn of its first handshake in first, for later checks.
func (p *prober) checkPolling(ctx context.Context, first **conn) (string, error) {
	if p.o.Transport == webSocket {
		return "", &skipped{CodeNotAsked, "excluded by -transport websocket"}
	}
	c, err := p.openIn(ctx, polling)
	if err != nil {
		var status *statusError
		if errors.As(err, &status) && status.engineCode() == EngineUnknownTransport {
			return "", &skipped{CodeNotOffered, "the server does not offer polling"}
		}
		return "", err
	}
	*first = c
	return p.recover(ctx, c, polling)
}

func (p *prober) checkWebSocket(ctx context.Context, before Check, first *conn) (string, error) {
	if p.o.Transport == polling {
		return "", &skipped{CodeNotAsked, "excluded by -transport polling"}
	}
	if slices.Contains([]Code{CodeDNS, CodeUnreachable, CodeTLS}, before.Code) {
		return "", &skipped{CodeNotAsked, "it would fail in the same way"}
	}
	c, err := p.openIn(ctx, webSocket)
	if err == nil {
		return p.recover(ctx, c, webSocket)
	}
	var status *statusError
	refused := errors.As(err, &status)
	switch {
	case refused && status.engineCode() == EngineUnknownTransport,
		first != nil && !slices.Contains(first.handshake.Upgrades, webSocket):
		return "", &skipped{CodeNotOffered, "the server does not offer WebSocket"}
	case before.Code == CodeHandshakeAuth && refused: // engine.io has no 403 for a WebSocket
		w := explain(err)
		w.code, w.remedy = before.Code, before.Remedy
		return "", w
	case before.Code == CodeNotFound:
		return "", &skipped{CodeNotAsked, "there is no Socket.IO server at this path"}
	case first != nil, refused && status.engineCode() == EngineBadRequest:
		w := explain(err)
		w.code = CodeWebSocketBlocked
		if first != nil {
			w.detail = "polling works, WebSocket does not: " + w.detail
		}
		w.remedy = "A proxy in between does not forward WebSockets. Make it use HTTP/1.1 towards holdfast and forward the headers Upgrade and Connection, " +
			"or let clients use polling only. docs/troubleshooting.md has the configuration for nginx."
		return "", w
	}
	return "", err
}

func (p *prober) checkUpgrade(ctx context.Context, before []Check, first *conn) (string, error) {
	switch {
	case p.o.Transport != "":
		return "", &skipped{CodeNotAsked, "excluded by -transport " + p.o.Transport}
	case before[0].Result != OK || before[1].Result == Fail:
		return "", &skipped{CodeNotAsked, "it needs both polling and WebSocket"}
	case !slices.Contains(first.handshake.Upgrades, webSocket):
		return "", &skipped{CodeNotOffered, "the server does not offer an upgrade"}
	}
	c, err := p.openIn(ctx, polling)
	if err != nil {
		return "", err
	}
	return p.recover(ctx, c, "upgrade")
}

// openIn is open, within the timeout.
func (p *prober) openIn(ctx context.Context, transport string) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.o.Timeout)
	defer cancel()
	return p.open(ctx, transport)
}

// connectIn is socket.connect, within the timeout. The conn is cut if there is an error.
func (p *prober) connectIn(ctx context.Context, s *socket, c *conn) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, p.o.Timeout)
	defer cancel()
	r, err := s.connect(ctx, c)
	if err != nil {
		c.cut()
	}
	return r, err
}

// recover connects the namespace on c, cuts c and reconnects. It reports whether it got the same
// session. way is the transport, or "upgrade" to upgrade c first.
func (p *prober) recover(ctx context.Context, c *conn, way string) (string, error) {
	start := time.Now()
	s := &socket{namespace: p.o.Namespace}
	if p.o.Auth != nil {
		s.auth = p.o.Auth
	}
	r, err := p.connectIn(ctx, s, c)
	if err != nil {
		return "", err
	}
	took := time.Since(start)
	s.sid, s.pid = r.SID, r.PID
	disconnect := s.packet(socketio.Disconnect, nil)
	if err := p.checkPID(s.pid); err != nil {
		c.leave(disconnect)
		return "", err
	}
	if way == "upgrade" {
		if err := p.upgradeIn(ctx, c); err != nil {
			c.leave(disconnect)
			return "", err
		}
	}
	heard, cancel := context.WithTimeout(ctx, maxListen)
	s.listen(heard, c, quiet)
	cancel()
	if c.ctx.Err() != nil { // the connection did not last
		return "", context.Cause(c.ctx)
	}
	c.cut()

	transport := way
	if way == "upgrade" {
		transport = polling // every client begins there
	}
	for attempt := 1; attempt <= attempts; attempt++ {
		if attempt == 1 {
			sleep(ctx, p.o.Away)
		}
		again, err := p.openIn(ctx, transport)
		if err != nil {
			return "", refusedAgain(err)
		}
		r, err := p.connectIn(ctx, s, again)
		if err != nil {
			return "", fmt.Errorf("reconnecting: %w", err)
		}
		if r.PID != s.pid || r.SID != s.sid {
			again.leave(disconnect)
			continue
		}
		heard, cancel := context.WithTimeout(ctx, maxListen)
		events := s.listen(heard, again, quiet)
		cancel()
		again.leave(disconnect)
		if attempt > 1 {
			return "", otherReplica(attempt)
		}
		return recovered(way, took, p.o.Away, s.sid, events), nil
	}
	return "", &problem{
		CodeNotRecovered, fmt.Sprintf("reconnected %d times with "+p.credential()+" of its session, and got a new session each time", attempts),
		"holdfast's status page and log (\"not recovered\") show the reason: unknown_pid if there are several replicas or holdfast restarted, " +
			"evicted if recovery.max_parked_sessions is too small. docs/troubleshooting.md explains all reasons.",
	}
}

// refusedAgain explains why a client that was admitted before cannot come back.
func refusedAgain(err error) error {
	status, ok := errors.AsType[*statusError](err)
	if !ok {
		return fmt.Errorf("reconnecting: %w", err)
	}
	problem := status.explain()
	problem.detail = "reconnecting: " + problem.detail
	// engine.io has no 403 for a WebSocket.
	if problem.code == CodeHandshakeAuth || status.status == http.StatusBadRequest {
		problem.code = CodeHandshakeAuth
		problem.detail += ", though the first handshake was accepted"
		problem.remedy = "The server may allow one connection per user (allowRequest), and still counts the client's own parked session. " +
			"Set upstream.handshake: lazy, so that a client that resumes makes no handshake with the server."
	}
	return problem
}

func (p *prober) upgradeIn(ctx context.Context, c *conn) error {
	ctx, cancel := context.WithTimeout(ctx, p.o.Timeout)
	defer cancel()
	return c.upgrade(ctx)
}

// checkPID returns an error if a CONNECT reply's pid is missing or not holdfast's.
func (p *prober) checkPID(pid string) error {
	switch {
	case p.o.Key != "" && pid == "":
		return nil // a session with a key has none
	case p.o.Key != "":
		return &problem{
			CodeNoKey, "connected, but the reply has a pid: holdfast does not look for a key in the parameter " + p.o.Key,
			"Set recovery.keyed.query: " + p.o.Key + " in holdfast, and let no proxy in between remove the parameter.",
		}
	case pid == "":
		return &problem{
			CodeNoPID, "connected, but the reply has no pid, so nothing can be recovered",
			"Either this connection does not go through holdfast: route this address and path to it. Or holdfast excludes this client (recovery.clients) " +
				"or the namespace " + p.o.Namespace + " (recovery.namespaces), or recovery is off (recovery.max_disconnection_duration: 0).",
		}
	case !session.IsPID(pid):
		return &problem{
			CodeOwnRecovery, "connected, but the pid is not holdfast's: the server recovers connections itself",
			"This is fine if it is intended: holdfast passes such sessions through unchanged. Otherwise turn off connectionStateRecovery in the server.",
		}
	}
	return nil
}

// credential names what the probe presents to get its session back.
func (p *prober) credential() string {
	if p.o.Key != "" {
		return "the key"
	}
	return "the pid"
}

func otherReplica(attempt int) error {
	return &problem{
		CodeOtherReplica,
		fmt.Sprintf("another replica answered: only attempt %d found the session, earlier ones got new sessions", attempt),
		"The load balancer has several replicas of holdfast, which do not know each other's sessions. Set cluster, or balance by a cookie or the client's address, " +
			"so that a new connection reaches the same replica.",
	}
}

// recovered describes a check that succeeded.
func recovered(way string, took, away time.Duration, sid string, events int) string {
	over := map[string]string{polling: "over polling", webSocket: "over WebSocket", "upgrade": "over polling, upgraded to WebSocket"}[way]
	text := fmt.Sprintf("connected %s in %v, cut, reconnected after %v: recovered the same session (sid %s)",
		over, took.Round(time.Millisecond), away, sid)
	switch {
	case events == 1:
		text += "; one event followed"
	case events > 1:
		text += fmt.Sprintf("; %d events followed", events)
	}
	return text
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// checkCORS judges the response to a polling handshake as a browser would.
func (p *prober) checkCORS(c *conn) Check {
	allowed := c.header.Get("Access-Control-Allow-Origin")
	own := url.URL{Scheme: p.o.URL.Scheme, Host: p.o.URL.Host}
	check := Check{Name: "cors", Result: OK, Code: CodeAllowed, Detail: "pages on " + p.o.Origin + " may connect"}
	switch {
	case strings.EqualFold(p.o.Origin, own.String()):
		check.Detail = p.o.Origin + " is the address's own origin"
	case allowed == "*", allowed == p.o.Origin:
	default:
		check.Result, check.Code = Fail, CodeCORS
		check.Detail = "browsers hide the responses from pages on " + p.o.Origin + ": Access-Control-Allow-Origin is " + orMissing(allowed)
		check.Remedy = "Allow the origin in the server (its cors option); holdfast forwards the server's headers. A proxy in between must not add its own."
	}
	return check
}

func orMissing(s string) string {
	if s == "" {
		return "missing"
	}
	return s
}

// checkCookies reports the names of cookies that responses set, but not their values.
func (p *prober) checkCookies() (Check, bool) {
	var names []string
	u := *p.o.URL
	u.Path = p.o.Path
	for _, c := range p.jar.Cookies(&u) {
		names = append(names, c.Name)
	}
	if len(names) == 0 {
		return Check{}, false
	}
	return Check{
		Name: "cookies", Result: Note, Code: CodeCookies,
		Detail: "the responses set " + strings.Join(names, ", ") + ". The probe sends cookies back, as browsers do. " +
			"If a load balancer picks the replica by cookie, clients without cookies (Node.js, native apps) may reach another one.",
	}, true
}
