package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

const (
	// attempts is how often the probe comes back for one session before it gives up: behind so many replicas one
	// of them is likely the right one.
	attempts = 6
	// quiet is how long no event must have come before the probe goes on.
	quiet = 150 * time.Millisecond
	// maxListen bounds that where the server never is quiet.
	maxListen = time.Second
)

// ExitError is a report that is not ExitOK; the report is written already.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("probe: exit status %d", e.Code) }

// Command runs `holdfast probe` with its arguments, and writes the report to stdout. Errors are *ExitError, or wrap ErrUsage.
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

// Run probes what o names. It ends within some multiples of o.Timeout, or soon after ctx.
func Run(ctx context.Context, o Options) Report {
	jar, err := cookiejar.New(nil)
	if err != nil {
		panic(err) // it takes no options that could be wrong
	}
	p := &prober{o: o, jar: jar, tls: &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		InsecureSkipVerify: o.Insecure, //nolint:gosec // the user's choice, off by default
	}}
	r := Report{Version: 1, URL: o.URL.Redacted(), Path: o.Path, Namespace: o.Namespace}
	var first *conn // for its answer's headers
	add := func(name string, fn func() (detail string, err error)) {
		start := time.Now()
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
		c.Detail += "; WebSocket works, so a proxy in between holds polling back"
		c.Remedy = "Turn the buffering and caching of requests and responses off in the proxy for this path, and let it wait for an answer for at least a minute."
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

// skipped is why a check was not made.
type skipped struct {
	code Code
	why  string
}

func (s *skipped) Error() string { return s.why }

// checkPolling leaves the conn of its first handshake in first, for what the server said there.
func (p *prober) checkPolling(ctx context.Context, first **conn) (string, error) {
	if p.o.Transport == webSocket {
		return "", &skipped{CodeNotAsked, "left out by -transport websocket"}
	}
	c, err := p.openIn(ctx, polling)
	if err != nil {
		var status *statusError
		if errors.As(err, &status) && status.engineCode() == engineUnknownTransport {
			return "", &skipped{CodeNotOffered, "the server does not offer polling"}
		}
		return "", err
	}
	*first = c
	return p.recover(ctx, c, polling)
}

func (p *prober) checkWebSocket(ctx context.Context, before Check, first *conn) (string, error) {
	if p.o.Transport == polling {
		return "", &skipped{CodeNotAsked, "left out by -transport polling"}
	}
	if slices.Contains([]Code{CodeDNS, CodeUnreachable, CodeTLS}, before.Code) {
		return "", &skipped{CodeNotAsked, "it would end in the same way"}
	}
	c, err := p.openIn(ctx, webSocket)
	if err == nil {
		return p.recover(ctx, c, webSocket)
	}
	var status *statusError
	refused := errors.As(err, &status)
	switch {
	case refused && status.engineCode() == engineUnknownTransport,
		first != nil && !slices.Contains(first.handshake.Upgrades, webSocket):
		return "", &skipped{CodeNotOffered, "the server does not offer WebSocket"}
	case before.Code == CodeHandshakeAuth && refused: // engine.io has no 403 for a WebSocket
		w := explain(err)
		w.code, w.remedy = before.Code, before.Remedy
		return "", w
	case before.Code == CodeNotFound:
		return "", &skipped{CodeNotAsked, "nothing of Socket.IO is at this path"}
	case first != nil, refused && status.engineCode() == engineBadRequest:
		w := explain(err)
		w.code = CodeWebSocketBlocked
		if first != nil {
			w.detail = "polling works, WebSocket does not: " + w.detail
		}
		w.remedy = "A proxy in between does not pass WebSockets. Let it speak HTTP/1.1 to holdfast and hand on the headers Upgrade and Connection, " +
			"or let clients use polling only. docs/troubleshooting.md has the lines for nginx."
		return "", w
	}
	return "", err
}

func (p *prober) checkUpgrade(ctx context.Context, before []Check, first *conn) (string, error) {
	switch {
	case p.o.Transport != "":
		return "", &skipped{CodeNotAsked, "left out by -transport " + p.o.Transport}
	case before[0].Result != OK || before[1].Result == Fail:
		return "", &skipped{CodeNotAsked, "it needs polling and WebSocket"}
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

// recover connects the namespace on c, cuts c, comes back, and says whether it got the same session. way is the transport, or
// "upgrade": then c is upgraded first.
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
	goodbye := s.packet(socketio.Disconnect, nil)
	if err := checkPID(s.pid, p.o.Namespace); err != nil {
		c.leave(goodbye)
		return "", err
	}
	if way == "upgrade" {
		if err := p.upgradeIn(ctx, c); err != nil {
			c.leave(goodbye)
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
		transport = polling // where every client begins
	}
	for attempt := 1; attempt <= attempts; attempt++ {
		if attempt == 1 {
			sleep(ctx, p.o.Away)
		}
		again, err := p.openIn(ctx, transport)
		if err != nil {
			return "", fmt.Errorf("coming back: %w", err)
		}
		r, err := p.connectIn(ctx, s, again)
		if err != nil {
			return "", fmt.Errorf("coming back: %w", err)
		}
		if r.PID != s.pid || r.SID != s.sid {
			again.leave(goodbye)
			continue
		}
		heard, cancel := context.WithTimeout(ctx, maxListen)
		events := s.listen(heard, again, quiet)
		cancel()
		again.leave(goodbye)
		if attempt > 1 {
			return "", otherReplica(attempt)
		}
		return recovered(way, took, p.o.Away, s.sid, events), nil
	}
	return "", &problem{
		CodeNotRecovered, fmt.Sprintf("came back %d times with the pid of its session, and got a fresh one each time", attempts),
		"Its reason is on holdfast's status page and in its log (\"not recovered\"): unknown_pid, if there are several replicas or it restarted; " +
			"evicted, if recovery.max_parked_sessions is too small; limit, binding, and others in docs/troubleshooting.md.",
	}
}

func (p *prober) upgradeIn(ctx context.Context, c *conn) error {
	ctx, cancel := context.WithTimeout(ctx, p.o.Timeout)
	defer cancel()
	return c.upgrade(ctx)
}

// checkPID says what it means that a CONNECT reply has such a pid.
func checkPID(pid, namespace string) error {
	switch {
	case pid == "":
		return &problem{
			CodeNoPID, "connected, but the server gave no pid, so nothing can be recovered",
			"This connection does not go through holdfast: route this address and path to it. Or holdfast leaves this client (recovery.clients) " +
				"or the namespace " + namespace + " (recovery.namespaces) out, or recovery is off (recovery.max_disconnection_duration: 0).",
		}
	case !session.IsPID(pid):
		return &problem{
			CodeOwnRecovery, "connected, but the pid is not holdfast's: the server recovers connections itself",
			"Nothing is wrong if that is wanted: holdfast lets such sessions pass as they are. Else turn connectionStateRecovery off in the server.",
		}
	}
	return nil
}

func otherReplica(attempt int) error {
	return &problem{
		CodeOtherReplica,
		fmt.Sprintf("another replica answered: the session was there only at attempt %d, the ones before got fresh sessions", attempt),
		"Several replicas of holdfast stand behind the balancer, and do not know each other's sessions. Balance by a cookie or by the client's address, " +
			"so that a new connection finds the same replica.",
	}
}

// recovered is what a check says that went well.
func recovered(way string, took, away time.Duration, sid string, events int) string {
	over := map[string]string{polling: "over polling", webSocket: "over WebSocket", "upgrade": "over polling, upgraded to WebSocket"}[way]
	text := fmt.Sprintf("connected %s in %v, cut, and back after %v: recovered, the same session (sid %s)",
		over, took.Round(time.Millisecond), away, sid)
	switch {
	case events == 1:
		text += "; an event came right behind"
	case events > 1:
		text += fmt.Sprintf("; %d events came right behind", events)
	}
	return text
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// checkCORS looks at the answer to a polling handshake as a browser would.
func (p *prober) checkCORS(c *conn) Check {
	allowed := c.header.Get("Access-Control-Allow-Origin")
	own := url.URL{Scheme: p.o.URL.Scheme, Host: p.o.URL.Host}
	check := Check{Name: "cors", Result: OK, Code: CodeAllowed, Detail: "pages of " + p.o.Origin + " may connect"}
	switch {
	case strings.EqualFold(p.o.Origin, own.String()):
		check.Detail = p.o.Origin + " is the address's own origin"
	case allowed == "*", allowed == p.o.Origin:
	default:
		check.Result, check.Code = Fail, CodeCORS
		check.Detail = "a browser keeps the answers from pages of " + p.o.Origin + ": Access-Control-Allow-Origin is " + orNone(allowed)
		check.Remedy = "Allow the origin in the server (its cors option); holdfast passes the server's headers on. A proxy in between must not add its own."
	}
	return check
}

func orNone(s string) string {
	if s == "" {
		return "missing"
	}
	return s
}

// checkCookies notes the cookies that were set: their names only.
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
		Detail: "the answers set " + strings.Join(names, ", ") + ". The probe sends cookies back, as browsers do. " +
			"If a balancer finds the replica by one, clients that keep none (Node.js, native apps) find another.",
	}, true
}
