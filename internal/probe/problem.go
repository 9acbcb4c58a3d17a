package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
)

// problem is what is wrong, in words.
type problem struct {
	code   Code
	detail string
	remedy string
}

func (p *problem) Error() string { return p.detail }

// statusError is an HTTP answer that was not wanted.
type statusError struct {
	what   string // was asked for
	status int
	header http.Header
	body   []byte
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s was answered with %d %s%s", e.what, e.status, http.StatusText(e.status), e.said())
}

// engineCode is the code of an Engine.IO refusal, or -1.
func (e *statusError) engineCode() int {
	var refusal struct {
		Code    *int    `json:"code"`
		Message *string `json:"message"`
	}
	if json.Unmarshal(e.body, &refusal) != nil || refusal.Code == nil || refusal.Message == nil {
		return -1
	}
	return *refusal.Code
}

// said is the answer's own words, if they are few.
func (e *statusError) said() string {
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

// Engine.IO's refusals.
const (
	engineUnknownTransport = 0
	engineUnknownSession   = 1
	engineBadRequest       = 3
	engineForbidden        = 4
	engineOldVersion       = 5
)

// explain puts an error from connecting into words. What it does not know it tells as it is.
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

// plain is an error's text without the request's URL, which may have secrets in its query.
func plain(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return err.Error()
}

func explainNetwork(err error) *problem {
	var (
		dns       *net.DNSError
		unknownCA x509.UnknownAuthorityError
		wrongName x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		noTLS     tls.RecordHeaderError
		alert     tls.AlertError
		timeout   net.Error
	)
	const certificate = "Browsers will refuse it too. Mend the certificate (its chain, names, dates); -insecure goes on without."
	switch {
	case errors.As(err, &dns):
		return &problem{CodeDNS, "the host's name is not known: " + dns.Error(), "Check the address, and the name server."}
	case errors.As(err, &unknownCA), errors.As(err, &wrongName), errors.As(err, &invalid), errors.As(err, &verify), errors.As(err, &alert):
		return &problem{CodeTLS, "TLS: " + plain(err), certificate}
	case errors.As(err, &noTLS), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return &problem{CodeTLS, "what answers there does not speak TLS", "Try http:// instead of https://, or the port that serves TLS."}
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return &problem{CodeTimeout, "there was no answer in time", "Is a firewall in between? Does holdfast's upstream answer? -timeout waits longer."}
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return &problem{CodeUnreachable, "nothing listens there: " + plain(err), "Is it running, and is this the address that clients use?"}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		return &problem{CodeLost, "the connection was ended by the other side: " + plain(err), "A proxy in between or the server closed it; their logs may say why. An http:// address of a TLS port does that too."}
	}
	return &problem{code: CodeProtocol, remedy: "Is a Socket.IO server behind this address and path?"}
}

// explain says what a status means that answers a handshake or a request of a session.
func (e *statusError) explain() *problem {
	p := &problem{detail: e.Error()}
	engine := e.engineCode()
	switch {
	case engine == engineUnknownSession:
		p.code = CodeSessionUnknown
		p.detail += ": the requests of one connection do not reach one server"
		p.remedy = "Several replicas of holdfast are balanced request by request. Make the balancer sticky, by a cookie or by the client's address."
	case engine == engineOldVersion:
		p.code = CodeOldServer
		p.remedy = "The server speaks Engine.IO 3 only (Socket.IO 2). holdfast passes that through; recovery needs Socket.IO 3 or later."
	case engine == engineForbidden, e.status == http.StatusUnauthorized, e.status == http.StatusForbidden:
		p.code = CodeHandshakeAuth
		p.remedy = "The server, or a proxy in between, wants credentials at the handshake: give them with -header (Authorization, Cookie) or -query. An origin may be wanted too: -origin."
	case e.status == http.StatusNotFound:
		p.code = CodeNotFound
		p.remedy = "No Socket.IO is at this path: give the server's with -path, and see that engineio.paths of holdfast and the routes of proxies in between have it."
	case e.status == http.StatusTooManyRequests:
		p.code = CodeRateLimited
		p.remedy = "A limit is reached: with holdfast, limits.handshakes_per_second_per_address. If all clients seem to have one address, set trusted_proxies."
	case e.status == http.StatusBadGateway, e.status == http.StatusServiceUnavailable, e.status == http.StatusGatewayTimeout:
		p.code = CodeUpstreamDown
		p.remedy = "Whoever answers cannot reach what is behind it. If it is holdfast, its log and status page say why (upstream.url); if it is a proxy in between, holdfast is not ready or not where it looks."
	case e.status >= 300 && e.status < 400:
		p.code = CodeRedirected
		p.detail += ", to " + e.location()
		p.remedy = "Clients follow no redirection over WebSocket: use the address that it leads to."
	case e.status == http.StatusOK:
		p.code = CodeNotSocketIO
		p.detail = e.what + " was answered, but not by a Socket.IO server"
		p.remedy = "A web server answers at this path: give the right one with -path, and route it to holdfast."
	default:
		p.code = CodeHTTPError
		p.remedy = "Not an answer of holdfast's own: look into the logs of the server and of the proxies in between."
	}
	return p
}

// location is where a redirection leads, without a query.
func (e *statusError) location() string {
	u, err := url.Parse(e.header.Get("Location"))
	if err != nil {
		return "nowhere"
	}
	u.RawQuery, u.User = "", nil
	return u.String()
}
