package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/holdfast/holdfast/internal/probe"
)

// engineCode returns the code of an Engine.IO refusal, or -1.
func (u *unexpected) engineCode() int { return probe.EngineCode(u.body) }

// text returns the answer's own message if it is short: of an Engine.IO refusal, or a text.
// python-engineio writes a JSON string.
func (u *unexpected) text() string {
	text := strings.TrimSpace(string(u.body))
	var refusal struct{ Message string }
	var plain string
	switch {
	case json.Unmarshal(u.body, &refusal) == nil && refusal.Message != "":
		text = refusal.Message
	case json.Unmarshal(u.body, &plain) == nil:
		text = plain
	}
	if len(text) > 120 || strings.Contains(text, "<") {
		return ""
	}
	return text
}

// saying is Error, with the answer's message.
func (u *unexpected) saying() string {
	if text := u.text(); text != "" {
		return fmt.Sprintf("%s (%q)", u.Error(), text)
	}
	return u.Error()
}

// unknownSession reports whether the server did not know the session of the request.
func (u *unexpected) unknownSession() bool {
	return u.engineCode() == probe.EngineUnknownSession || u.status == http.StatusBadRequest && strings.Contains(u.text(), "nvalid session")
}

// fromPython reports whether python-engineio refused an old version.
func (u *unexpected) fromPython() bool {
	return strings.Contains(u.text(), "client is using an unsupported version")
}

// explain says what an answer to the first handshake means, and whether it comes from a Socket.IO
// server.
func (u *unexpected) explain() (f Finding, found bool) {
	f = Finding{Topic: "handshake", Result: Fail, Detail: u.saying()}
	engine := u.engineCode()
	switch {
	case engine == probe.EngineForbidden, u.status == http.StatusUnauthorized, u.status == http.StatusForbidden,
		u.status == http.StatusBadRequest && engine < 0 && u.text() != "" && strings.HasPrefix(string(u.body), `"`): // python-engineio
		f.Code = CodeHandshakeAuth
		f.Advice = "The server (allowRequest) or a proxy requires credentials. Give what your clients send with -header 'Authorization: ...', " +
			"-header 'Cookie: ...', -query or -origin. holdfast passes it on, so your clients are not affected."
		return f, true
	case u.status == http.StatusBadRequest && strings.Contains(string(u.body), "HTTPS"): // Go's servers, nginx
		f.Code, f.Advice = CodeTLS, "This port speaks TLS: use https:// instead of http://."
		return f, false
	case u.status == http.StatusTooManyRequests:
		f.Code, f.Advice = CodeRateLimited, "Wait, and run the doctor again. holdfast passes handshakes on, and adds none."
		return f, true
	case engine >= 0:
		f.Code, f.Advice = CodeHTTPError, "Look at the server's log."
		return f, true
	case u.status == http.StatusNotFound:
		f.Code = CodeNotFound
		f.Advice = "A web server answers, and has no Socket.IO at this path. If the server has an option path, give it with -path. " +
			"Otherwise this may be the wrong port, or Socket.IO is not attached to this HTTP server."
	case u.status >= 300 && u.status < 400:
		f.Code = CodeRedirected
		f.Detail += ", to " + u.location()
		f.Advice = "Clients do not follow redirections over WebSocket, and holdfast follows none. Use the address that it leads to."
	case u.status == http.StatusBadGateway, u.status == http.StatusServiceUnavailable, u.status == http.StatusGatewayTimeout:
		f.Code, f.Advice = CodeUpstreamDown, "A proxy answers, and the server behind it does not. Start the server, or use its own address."
	case u.status == http.StatusOK:
		f.Code, f.Detail = CodeNotSocketIO, "the answer is not Socket.IO's, but "+u.looksLike()
		f.Advice = "Another service answers at this address and path. Give the port of the Socket.IO server, and its path with -path."
	default:
		f.Code, f.Advice = CodeHTTPError, "Look at the server's log. Is there a Socket.IO server at this address and path?"
	}
	return f, false
}

var title = regexp.MustCompile(`(?is)<title>\s*([^<]{1,60}?)\s*</title>`)

// looksLike describes an answer that is not Engine.IO's.
func (u *unexpected) looksLike() string {
	kind, _, _ := strings.Cut(u.header.Get("Content-Type"), ";")
	switch m := title.FindSubmatch(u.body); {
	case m != nil:
		return fmt.Sprintf("a web page (%q)", m[1])
	case kind != "":
		return "of type " + kind
	case len(u.body) == 0:
		return "empty"
	}
	return fmt.Sprintf("%.40q", u.body)
}

// location returns a redirection's target without its query.
func (u *unexpected) location() string {
	target, err := url.Parse(u.header.Get("Location"))
	if err != nil || target.String() == "" {
		return "nowhere"
	}
	target.RawQuery, target.User = "", nil
	return target.String()
}

// plain returns an error's text without the request's URL, whose query may contain secrets.
func plain(err error) string {
	if u, ok := errors.AsType[*unexpected](err); ok {
		return u.saying()
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return err.Error()
}

// explainNetwork says why the server could not be asked.
func explainNetwork(err error) Finding {
	f := Finding{Topic: "address", Result: Fail, Detail: plain(err)}
	switch probe.FailureOf(err) {
	case probe.UnknownHost:
		f.Code, f.Detail, f.Advice = CodeDNS, probe.DNSProblem(err), "Check the address and the name server."
	case probe.TLSFailure:
		f.Code, f.Detail = CodeTLS, "TLS: "+plain(err)
		f.Advice = "holdfast would refuse this server, too. If the certificate comes from an authority of your own, give its file with -ca; -insecure skips the check."
	case probe.NoTLS:
		f.Code, f.Detail, f.Advice = CodeTLS, "the server does not speak TLS on this port", "Use http:// instead of https://."
	case probe.NoAnswer:
		f.Code, f.Detail = CodeTimeout, "there was no answer in time"
		f.Advice = "Something accepts connections and does not answer, or a firewall drops them. -timeout allows more time."
	case probe.NothingListens:
		f.Code, f.Detail, f.Advice = CodeUnreachable, "nothing listens there: "+plain(err), "Start the server, or give its port."
	case probe.ClosedByPeer:
		f.Code, f.Detail = CodeLost, "the other side closed the connection: "+plain(err)
		f.Advice = "This may not be an HTTP server. If it speaks TLS, use https://."
	case probe.OtherFailure:
		f.Code, f.Advice = CodeUnreachable, "Check the address."
		if strings.Contains(err.Error(), "malformed HTTP") {
			f.Code, f.Detail, f.Advice = CodeNotSocketIO, "the answer is not HTTP", "Another service answers at this address: give the port of the Socket.IO server."
		}
	}
	return f
}
