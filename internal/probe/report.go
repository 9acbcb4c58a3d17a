package probe

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Exit statuses of the command. 2 is main's, for bad usage.
const (
	ExitOK      = 0 // recovered over every transport that the server offers
	ExitFailed  = 1 // connected, but not recovered over every transport
	ExitUsage   = 2
	ExitNoReply = 3 // no check could connect the namespace
)

// Result is how a check ended.
type Result string

// Results.
const (
	OK   Result = "ok"
	Fail Result = "fail"
	Skip Result = "skip" // does not apply; the detail says why
	Note Result = "note" // worth knowing, but not a failure
)

// Code is what a check found. The constants below are the only codes.
type Code string

// What keeps a client from connecting.
const (
	CodeDNS            Code = "dns"             // the host name cannot be resolved
	CodeUnreachable    Code = "unreachable"     // nothing listens there
	CodeTimeout        Code = "timeout"         // no response in time
	CodeTLS            Code = "tls"             // a bad certificate, or no TLS at all
	CodeNotFound       Code = "not_found"       // 404: a wrong path
	CodeNotSocketIO    Code = "not_socketio"    // a response, but not Engine.IO
	CodeRedirected     Code = "redirected"      // to another address
	CodeOldServer      Code = "old_server"      // it does not speak Engine.IO v4
	CodeHandshakeAuth  Code = "handshake_auth"  // 401 or 403
	CodeRateLimited    Code = "rate_limited"    // 429
	CodeUpstreamDown   Code = "upstream_down"   // 502, 503, 504
	CodeHTTPError      Code = "http_error"      // another status
	CodeConnectRefused Code = "connect_refused" // CONNECT_ERROR: auth, or the namespace
	CodeUnanswered     Code = "unanswered"      // the handshake is answered, CONNECT is not
	CodePollingHeld    Code = "polling_held"    // the same over polling, while WebSocket works
	CodeLost           Code = "connection_lost" // the other side closed the connection
	CodeProtocol       Code = "protocol"        // an invalid response
)

// What keeps a connected client from being recovered, and other findings.
const (
	CodeNoPID            Code = "no_pid"            // not through holdfast, or excluded by it
	CodeNoKey            Code = "no_key"            // with -key, but holdfast finds no key there
	CodeOwnRecovery      Code = "own_recovery"      // the pid is the server's own
	CodeOtherReplica     Code = "other_replica"     // recovered only after more attempts
	CodeNotRecovered     Code = "not_recovered"     // never recovered
	CodeSessionUnknown   Code = "session_unknown"   // one connection reaches several servers
	CodeWebSocketBlocked Code = "websocket_blocked" // polling works, WebSocket does not
	CodeUpgradeFailed    Code = "upgrade_failed"    // both work, the upgrade does not
	CodeNotOffered       Code = "not_offered"       // the server does not offer this transport
	CodeNotAsked         Code = "not_asked"         // excluded by -transport, or pointless now
	CodeCORS             Code = "cors"              // the origin may not read the responses
	CodeCookies          Code = "cookies"           // a cookie may choose the replica
	CodeRecovered        Code = "recovered"
	CodeAllowed          Code = "allowed" // the origin may read the responses
)

// Codes returns every Code.
func Codes() []Code {
	return []Code{
		CodeDNS, CodeUnreachable, CodeTimeout, CodeTLS, CodeNotFound, CodeNotSocketIO, CodeRedirected, CodeOldServer,
		CodeHandshakeAuth, CodeRateLimited, CodeUpstreamDown, CodeHTTPError, CodeConnectRefused, CodeUnanswered,
		CodePollingHeld, CodeLost, CodeProtocol, CodeNoPID, CodeNoKey, CodeOwnRecovery, CodeOtherReplica, CodeNotRecovered,
		CodeSessionUnknown, CodeWebSocketBlocked, CodeUpgradeFailed, CodeNotOffered, CodeNotAsked, CodeCORS, CodeCookies,
		CodeRecovered, CodeAllowed,
	}
}

// Check is the outcome of one check.
type Check struct {
	Name    string  `json:"name"` // polling, websocket, upgrade, cors or cookies
	Result  Result  `json:"result"`
	Code    Code    `json:"code"`
	Detail  string  `json:"detail"`           // what was found
	Remedy  string  `json:"remedy,omitempty"` // what to do
	Seconds float64 `json:"seconds"`          // how long it took
}

// Report is the outcome of Run. -json prints its JSON form.
type Report struct {
	Version   int     `json:"version"` // of this format: 1
	URL       string  `json:"url"`
	Path      string  `json:"path"`
	Namespace string  `json:"namespace"`
	OK        bool    `json:"ok"`
	Exit      int     `json:"exit"` // the command's exit status
	Checks    []Check `json:"checks"`
}

// conclude sets OK and Exit from the checks.
func (r *Report) conclude() {
	failed, reached := 0, false
	for _, c := range r.Checks {
		switch c.Result {
		case Fail:
			failed++
			reached = reached || c.Code.connected()
		case OK:
			reached = true
		case Skip, Note:
		}
	}
	switch {
	case !reached:
		r.Exit = ExitNoReply
	case failed > 0:
		r.Exit = ExitFailed
	default:
		r.OK, r.Exit = true, ExitOK
	}
}

// connected reports whether a check that failed with c had connected its namespace.
func (c Code) connected() bool {
	switch c { //nolint:exhaustive // the other codes mean no
	case CodeNoPID, CodeNoKey, CodeOwnRecovery, CodeOtherReplica, CodeNotRecovered, CodeUpgradeFailed:
		return true
	}
	return false
}

// WriteJSON writes the report for programs.
func (r *Report) WriteJSON(w io.Writer) error { return WriteJSON(w, r) }

// WriteJSON writes a report as JSON that people can read, too.
func WriteJSON(w io.Writer, report any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(report)
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, path %s, namespace %s\n\n", r.URL, r.Path, r.Namespace)
	failed, printed := 0, map[string]bool{}
	for _, c := range r.Checks {
		word := string(c.Result)
		if c.Result == Fail {
			failed++
			word = "FAIL"
		}
		Paragraph(&b, fmt.Sprintf("%-5s %-10s ", word, c.Name), indent, c.Detail)
		if c.Remedy != "" && !printed[c.Remedy] {
			Paragraph(&b, strings.Repeat(" ", indent)+"What to do: ", indent, c.Remedy)
			printed[c.Remedy] = true
		}
	}
	b.WriteByte('\n')
	switch {
	case r.OK:
		b.WriteString("All checks passed: a client that loses its connection gets its session back.\n")
	case r.Exit == ExitNoReply:
		b.WriteString("Clients cannot connect.\n")
	default:
		fmt.Fprintf(&b, "%d of %d checks failed.\n", failed, len(r.Checks))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Lines break at width. Lines after the first of a check begin at indent.
const (
	width  = 100
	indent = 17
)

// Paragraph writes head and text. It breaks lines, and indents those after the first.
func Paragraph(b *strings.Builder, head string, indent int, text string) {
	b.WriteString(head)
	column := len(head)
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case column+1+len(word) > width:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			column = indent
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	b.WriteByte('\n')
}
