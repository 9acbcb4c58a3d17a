package engineio

import (
	"bytes"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Request describes a handshake with an upstream server.
type Request struct {
	Protocol  Protocol
	WebSocket bool
	// PollIfRefused makes Dial try polling if the server refuses a WebSocket as such.
	PollIfRefused bool
	// AnyProtocol accepts an answer of version 3 to a handshake of version 4, over polling. Conn's
	// Protocol says which it is.
	AnyProtocol bool
	Path        string // escaped, as on the wire
	RawQuery    string
	Host        string
	// Header holds the client's headers that the server should see. Hop-by-hop headers and those of
	// the WebSocket handshake, except for Sec-WebSocket-Protocol, are not part of it.
	Header http.Header

	head string // what Head returned
}

var headBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// Head returns the request's first line and header as on the wire, without the blank line that
// follows. Changes to the Request after the first call have no effect on it.
func (r *Request) Head() string {
	if r.head != "" {
		return r.head
	}
	b := headBuffers.Get().(*bytes.Buffer)
	defer headBuffers.Put(b)
	b.Reset()
	b.WriteString("GET " + r.Path)
	if r.RawQuery != "" {
		b.WriteString("?" + r.RawQuery)
	}
	b.WriteString(" HTTP/1.1\r\nHost: " + r.Host + "\r\n")
	_ = r.Header.Write(b) // writing to a Buffer does not fail
	r.head = b.String()   // has no spare capacity; it is kept as long as the client
	return r.head
}

// ForPolling returns the request for the same handshake over polling.
func (r Request) ForPolling() Request {
	var pairs []string
	for pair := range strings.SplitSeq(r.RawQuery, "&") {
		if key, _, _ := strings.Cut(pair, "="); key != "" && key != "transport" {
			pairs = append(pairs, pair)
		}
	}
	r.WebSocket, r.head = false, ""
	r.RawQuery = strings.Join(append(pairs, "transport=polling"), "&")
	return r
}

// laterQuery returns the query of a request that follows a handshake: the handshake's own query
// with another transport, sid and cache buster t. It drops the client's "b64", which asks for
// base64.
func laterQuery(handshake, transport, sid, t string) string {
	var b strings.Builder
	for pair := range strings.SplitSeq(handshake, "&") {
		key, _, _ := strings.Cut(pair, "=")
		switch key {
		case "", "transport", "sid", "t", "b64":
			continue
		}
		b.WriteString(pair)
		b.WriteByte('&')
	}
	b.WriteString("transport=" + transport + "&sid=" + url.QueryEscape(sid))
	if t != "" {
		b.WriteString("&t=" + t)
	}
	return b.String()
}

// withCookies returns header with the cookies that the response sets. Other cookies stay as they
// are, even if net/http would not accept them.
func withCookies(header, response http.Header) http.Header {
	set := response.Values("Set-Cookie")
	if len(set) == 0 {
		return header
	}
	var pairs []string
	for _, line := range header.Values("Cookie") {
		for pair := range strings.SplitSeq(line, ";") {
			if pair = strings.TrimSpace(pair); pair != "" {
				pairs = append(pairs, pair)
			}
		}
	}
	for _, line := range set {
		pair, _, _ := strings.Cut(line, ";")
		pair = strings.TrimSpace(pair)
		name := cookieName(pair)
		if name == "" {
			continue
		}
		pairs = slices.DeleteFunc(pairs, func(old string) bool { return cookieName(old) == name })
		if !expired(line) {
			pairs = append(pairs, pair)
		}
	}
	header = header.Clone()
	header.Del("Cookie")
	if len(pairs) > 0 {
		header.Set("Cookie", strings.Join(pairs, "; "))
	}
	return header
}

func cookieName(pair string) string {
	name, _, ok := strings.Cut(pair, "=")
	if !ok {
		return ""
	}
	return strings.TrimSpace(name)
}

// expired reports whether a Set-Cookie header deletes its cookie.
func expired(line string) bool {
	_, attributes, _ := strings.Cut(line, ";")
	c, err := http.ParseSetCookie("x=;" + attributes) // with any value
	return err == nil && (c.MaxAge < 0 || c.MaxAge == 0 && !c.Expires.IsZero() && c.Expires.Before(time.Now()))
}
