package doctor

import (
	"fmt"
	"io"
	"strings"

	"github.com/holdfast/holdfast/internal/probe"
)

// Exit statuses of doctor. 2 is main's, for bad usage. Those of init are 0 if it wrote the file, 1
// if it could not, and ExitNotFound.
const (
	ExitOK       = 0 // holdfast can recover this server's clients
	ExitInTheWay = 1 // a Socket.IO server, but something is in the way
	ExitUsage    = 2
	ExitNotFound = 3 // no Socket.IO server
)

// Result is how much a finding matters.
type Result string

// Results.
const (
	OK   Result = "ok"
	Note Result = "note" // worth knowing
	Fail Result = "fail" // holdfast cannot recover clients, or the doctor cannot tell
)

// Code is what was found. The constants below are the only codes. Where `holdfast probe` has the
// same, it has the same name.
type Code string

// No Socket.IO server was found.
const (
	CodeDNS          Code = "dns"             // the host name cannot be resolved
	CodeUnreachable  Code = "unreachable"     // nothing listens there
	CodeTimeout      Code = "timeout"         // no answer in time
	CodeTLS          Code = "tls"             // a bad certificate, or no TLS at all
	CodeLost         Code = "connection_lost" // the other side closed the connection
	CodeNotFound     Code = "not_found"       // 404
	CodeNotSocketIO  Code = "not_socketio"    // an answer, but not Engine.IO's
	CodeRedirected   Code = "redirected"      // to another address
	CodeUpstreamDown Code = "upstream_down"   // 502, 503, 504
	CodeHTTPError    Code = "http_error"      // another status
)

// A Socket.IO server, and something in the way.
const (
	CodeHandshakeAuth  Code = "handshake_auth"  // it refuses the handshake
	CodeRateLimited    Code = "rate_limited"    // 429
	CodeNoTransport    Code = "no_transport"    // neither transport works
	CodeOwnRecovery    Code = "own_recovery"    // it recovers connections itself
	CodeHoldfast       Code = "holdfast"        // the address is holdfast's
	CodeConnectRefused Code = "connect_refused" // CONNECT_ERROR
	CodeUnanswered     Code = "unanswered"      // no reply to CONNECT
	CodeOtherParser    Code = "other_parser"    // the reply is not that of the default parser
	CodeSessionUnknown Code = "session_unknown" // several processes, without sticky sessions
)

// What else there is to say.
const (
	CodeCertificate   Code = "certificate"    // of the server; a note if it expires soon
	CodeSoftware      Code = "software"       // which server it is
	CodeProtocol      Code = "protocol"       // which versions of Engine.IO
	CodeOldServer     Code = "old_server"     // Engine.IO 3 only: holdfast translates
	CodeTransports    Code = "transports"     // those that work; a note if one does not
	CodeConnected     Code = "connected"      // the namespace is there
	CodeNoRecovery    Code = "no_recovery"    // the server has no recovery of its own
	CodeOneConnection Code = "one_connection" // it refuses a second one of the same client
	CodeHeartbeats    Code = "heartbeats"     // intervals; a note if they are long
	CodePayload       Code = "payload"        // the largest message; a note if it is unknown
	CodeCookies       Code = "cookies"        // the handshake sets some
	CodeCORS          Code = "cors"           // who may connect from other origins
	CodeOldBundle     Code = "old_bundle"     // the client that it serves cannot resume
)

// Codes returns every Code.
func Codes() []Code {
	return []Code{
		CodeDNS, CodeUnreachable, CodeTimeout, CodeTLS, CodeLost, CodeNotFound, CodeNotSocketIO, CodeRedirected,
		CodeUpstreamDown, CodeHTTPError, CodeHandshakeAuth, CodeRateLimited, CodeNoTransport, CodeOldServer,
		CodeOwnRecovery, CodeHoldfast, CodeConnectRefused, CodeUnanswered, CodeOtherParser, CodeSessionUnknown,
		CodeCertificate, CodeSoftware, CodeProtocol, CodeTransports, CodeConnected, CodeNoRecovery, CodeOneConnection,
		CodeHeartbeats, CodePayload, CodeCookies, CodeCORS, CodeOldBundle,
	}
}

// Finding is one thing that the doctor has to say.
type Finding struct {
	Topic  string `json:"topic"`
	Result Result `json:"result"`
	Code   Code   `json:"code"`
	Detail string `json:"detail"`           // what was found
	Advice string `json:"advice,omitempty"` // what to do
}

// Server is what the doctor has seen of the server. Zero values mean that it has not seen it.
type Server struct {
	Software       string   `json:"software,omitempty"`      // such as "socket.io 4.5.4"
	ClientBundle   string   `json:"client_bundle,omitempty"` // of the client that it serves to pages
	EngineIO       []int    `json:"engineio"`                // versions that it accepts
	Transports     []string `json:"transports"`              // those that work
	Upgrade        bool     `json:"upgrade"`                 // from polling to WebSocket is offered
	PingIntervalMS int64    `json:"ping_interval_ms,omitempty"`
	PingTimeoutMS  int64    `json:"ping_timeout_ms,omitempty"`
	MaxPayload     int64    `json:"max_payload,omitempty"`  // bytes
	OwnRecovery    bool     `json:"own_recovery"`           // connectionStateRecovery
	OneConnection  bool     `json:"one_connection"`         // refuses a client's second handshake
	Cookies        []string `json:"cookies,omitempty"`      // names
	AllowOrigin    string   `json:"allow_origin,omitempty"` // Access-Control-Allow-Origin
}

// Report is the outcome of Look. -json prints its JSON form.
type Report struct {
	Version   int       `json:"version"` // of this format: 1
	URL       string    `json:"url"`
	Path      string    `json:"path"`
	Namespace string    `json:"namespace"`
	OK        bool      `json:"ok"`
	Exit      int       `json:"exit"` // doctor's exit status
	Server    Server    `json:"server"`
	Findings  []Finding `json:"findings"`
	Will      []string  `json:"will"`     // what recovery will do
	WillNot   []string  `json:"will_not"` // and what it will not
}

// has reports whether something with this code was found.
func (r *Report) has(code Code) bool {
	for _, f := range r.Findings {
		if f.Code == code {
			return true
		}
	}
	return false
}

// conclude sets OK and Exit. found is whether there is a Socket.IO server.
func (r *Report) conclude(found bool) {
	switch {
	case !found:
		r.Exit = ExitNotFound
	case r.failed():
		r.Exit = ExitInTheWay
	default:
		r.OK, r.Exit = true, ExitOK
	}
}

func (r *Report) failed() bool {
	for _, f := range r.Findings {
		if f.Result == Fail {
			return true
		}
	}
	return false
}

// WriteJSON writes the report for programs.
func (r *Report) WriteJSON(w io.Writer) error { return probe.WriteJSON(w, r) }

// WriteText writes the report for people. next are the lines that say what to do next.
func (r *Report) WriteText(w io.Writer, next []string) error {
	const indent = 17 // the width of result and topic
	var b strings.Builder
	fmt.Fprintf(&b, "%s, path %s, namespace %s\n\n", r.URL, r.Path, r.Namespace)
	for _, f := range r.Findings {
		word := string(f.Result)
		if f.Result == Fail {
			word = "FAIL"
		}
		probe.Paragraph(&b, fmt.Sprintf("%-5s %-10s ", word, f.Topic), indent, f.Detail)
		if f.Advice != "" {
			probe.Paragraph(&b, strings.Repeat(" ", indent)+"What to do: ", indent, f.Advice)
		}
	}
	list := func(heading string, items []string) {
		if len(items) == 0 {
			return
		}
		b.WriteString("\n" + heading + "\n\n")
		for _, item := range items {
			probe.Paragraph(&b, "  - ", 4, item)
		}
	}
	list("With holdfast in front of this server", r.Will)
	list("What it will not do", r.WillNot)
	if len(next) > 0 {
		b.WriteString("\nNext\n\n")
		for _, line := range next {
			b.WriteString("  " + line + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
