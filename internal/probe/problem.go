package probe

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// problem is a failure in words for the user.
type problem struct {
	code   Code
	detail string
	remedy string
}

func (p *problem) Error() string { return p.detail }

// statusError is an unexpected HTTP response.
type statusError struct {
	what   string // the request
	status int
	header http.Header
	body   []byte
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s was answered with %d %s%s", e.what, e.status, http.StatusText(e.status), e.message())
}

// engineCode returns the code of an Engine.IO refusal, or -1.
func (e *statusError) engineCode() int { return EngineCode(e.body) }

// EngineCode returns the code in the body of an Engine.IO refusal, such as EngineForbidden, or -1
// if it is something else.
func EngineCode(body []byte) int {
	var refusal struct {
		Code    *int    `json:"code"`
		Message *string `json:"message"`
	}
	if json.Unmarshal(body, &refusal) != nil || refusal.Code == nil || refusal.Message == nil {
		return -1
	}
	return *refusal.Code
}

// message returns the response's own message if it is short, in parentheses.
func (e *statusError) message() string {
	var refusal struct{ Message string }
	text := strings.TrimSpace(string(e.body))
	if json.Unmarshal(e.body, &refusal) == nil && refusal.Message != "" {
		text = refusal.Message
	}
	if text == "" || len(text) > 120 || strings.Contains(text, "<") {
		return ""
	}
	return fmt.Sprintf(" (%q)", text)
}

// The codes of Engine.IO's refusals.
const (
	EngineUnknownTransport = 0
	EngineUnknownSession   = 1
	EngineBadRequest       = 3
	EngineForbidden        = 4
	EngineOldVersion       = 5
)

// explain turns an error from connecting into a problem. The detail of an unknown error is its
// text.
func explain(err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	if status, ok := errors.AsType[*statusError](err); ok {
		return status.explain()
	}
	p = explainNetwork(err)
	if p.detail == "" {
		p.detail = plain(err)
	}
	return p
}

// plain returns an error's text without the request's URL, whose query may contain secrets.
func plain(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return err.Error()
}

func explainNetwork(err error) *problem {
	switch FailureOf(err) {
	case UnknownHost:
		return &problem{CodeDNS, DNSProblem(err), "Check the address and the name server."}
	case TLSFailure:
		return &problem{CodeTLS, "TLS: " + plain(err), "Browsers will refuse it, too. Fix the certificate (its chain, names or dates); -insecure skips the check."}
	case NoTLS:
		return &problem{CodeTLS, "the server does not use TLS", "Try http:// instead of https://, or the port that serves TLS."}
	case NoAnswer:
		return &problem{CodeTimeout, "there was no response in time", "Is there a firewall in between? Does holdfast's upstream respond? -timeout allows more time."}
	case NothingListens:
		return &problem{CodeUnreachable, "cannot connect: " + plain(err), "Is holdfast running, and is this the address that clients use?"}
	case ClosedByPeer:
		return &problem{CodeLost, "the other side closed the connection: " + plain(err), "The server or a proxy in between closed it; their logs may say why. An http:// address with a TLS port also causes this."}
	case OtherFailure:
	}
	return &problem{code: CodeProtocol, remedy: "Is a Socket.IO server behind this address and path?"}
}

// explain interprets the status of a response to a handshake or to a later polling request.
func (e *statusError) explain() *problem {
	p := &problem{detail: e.Error()}
	engine := e.engineCode()
	switch {
	case engine == EngineUnknownSession:
		p.code = CodeSessionUnknown
		p.detail += ": requests of one connection reach different servers"
		p.remedy = "The load balancer spreads the requests of one connection over several servers, or over replicas of holdfast that do not know each other. Set cluster for the replicas, or make the balancer sticky, by a cookie or by the client's address."
	case engine == EngineOldVersion:
		p.code = CodeOldServer
		p.remedy = "The server supports only Engine.IO 3 (Socket.IO 2). Set upstream.protocol: 3, so that holdfast translates and recovers. Otherwise its clients pass through without recovery."
	case engine == EngineForbidden, e.status == http.StatusUnauthorized, e.status == http.StatusForbidden:
		p.code = CodeHandshakeAuth
		p.remedy = "The server or a proxy in between requires credentials at the handshake: pass them with -header (Authorization, Cookie) or -query. It may also require an origin: -origin."
	case e.status == http.StatusNotFound:
		p.code = CodeNotFound
		p.remedy = "There is no Socket.IO server at this path: set the server's path with -path, and check that engineio.paths of holdfast and the routes of proxies in between include it."
	case e.status == http.StatusTooManyRequests:
		p.code = CodeRateLimited
		p.remedy = "A rate limit was reached. In holdfast that is limits.handshakes_per_second_per_address. If all clients appear to have one address, set trusted_proxies."
	case e.status == http.StatusBadGateway, e.status == http.StatusServiceUnavailable, e.status == http.StatusGatewayTimeout:
		p.code = CodeUpstreamDown
		p.remedy = "A proxy cannot reach its backend. If it is holdfast, its log and status page say why (upstream.url). If it is a proxy in between, holdfast is not ready, or the proxy has the wrong address."
	case e.status >= 300 && e.status < 400:
		p.code = CodeRedirected
		p.detail += ", to " + e.location()
		p.remedy = "Clients do not follow redirects over WebSocket: use the address that it points to."
	case e.status == http.StatusOK:
		p.code = CodeNotSocketIO
		p.detail = e.what + " was answered, but not by a Socket.IO server"
		p.remedy = "A web server answers at this path: set the right path with -path, and route it to holdfast."
	case e.status == http.StatusBadRequest && strings.Contains(string(e.body), "HTTPS"): // Go's and nginx's answer
		p.code = CodeTLS
		p.detail = "this port speaks TLS, and the address begins with http://"
		p.remedy = "Use https://, or the port that serves plain HTTP."
	default:
		p.code = CodeHTTPError
		p.remedy = "holdfast does not send this status itself: check the logs of the server and of the proxies in between."
	}
	return p
}

// location returns a redirect's target without its query.
func (e *statusError) location() string {
	u, err := url.Parse(e.header.Get("Location"))
	if err != nil {
		return "nowhere"
	}
	u.RawQuery, u.User = "", nil
	return u.String()
}
