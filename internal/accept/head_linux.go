package accept

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
	"sync"
)

// upgradeStart is how the head of a handshake begins.
const upgradeStart = "GET /"

// mayBeUpgrade reports whether a head that begins with these bytes may be that of a handshake.
func mayBeUpgrade(head []byte) bool {
	return bytes.HasPrefix(head, []byte(upgradeStart)[:min(len(upgradeStart), len(head))])
}

// endOfHead returns the index behind a request's head, or 0 if its end is not there. The first from
// bytes contain no end; the search begins just before them, because an end may straddle the border.
func endOfHead(p []byte, from int) int {
	for i := max(0, from-3); i < len(p); i++ {
		if p[i] != '\n' {
			continue
		}
		switch rest := p[i+1:]; {
		case bytes.HasPrefix(rest, []byte("\n")):
			return i + 2
		case bytes.HasPrefix(rest, []byte("\r\n")):
			return i + 3
		}
	}
	return 0
}

// headReaders are readers for http.ReadRequest.
var headReaders = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}

// parseUpgrade returns the request that a head makes, or nil unless it is a simple upgrade with
// nothing behind its head. It returns nil for everything that net/http's server would refuse or
// read differently.
func parseUpgrade(head []byte, end int) *http.Request {
	if end != len(head) || !isSimpleUpgrade(head) {
		return nil
	}
	br := headReaders.Get().(*bufio.Reader)
	defer func() {
		br.Reset(nil) // does not keep the head
		headReaders.Put(br)
	}()
	br.Reset(bytes.NewReader(head))
	r, err := http.ReadRequest(br)
	if err != nil || r.Proto != "HTTP/1.1" || r.ContentLength != 0 || !isSimpleHost(r.Host) {
		return nil
	}
	return r
}

// isSimpleUpgrade reports whether a head is written as clients write it. It has visible ASCII only,
// and lines that end with CRLF. Each line has a name and a value, and none continues another. There
// is exactly one Host and one Upgrade, and nothing about a body.
func isSimpleUpgrade(head []byte) bool {
	line, head, _ := bytes.Cut(head, []byte("\r\n"))
	if !isVisible(line) {
		return false
	}
	hosts, upgrades := 0, 0
	for line := range bytes.SplitAfterSeq(head, []byte("\n")) {
		text, ok := bytes.CutSuffix(line, []byte("\r\n"))
		if ok && len(text) == 0 {
			return hosts == 1 && upgrades == 1
		}
		name, value, colon := bytes.Cut(text, []byte(":"))
		if !ok || !colon || !isSimpleToken(name) || !isVisible(value) {
			return false
		}
		switch {
		case bytes.EqualFold(name, []byte("host")):
			hosts++
		case bytes.EqualFold(name, []byte("upgrade")):
			upgrades++
		case bytes.EqualFold(name, []byte("content-length")), bytes.EqualFold(name, []byte("transfer-encoding")),
			bytes.EqualFold(name, []byte("expect")), bytes.EqualFold(name, []byte("trailer")):
			return false
		}
	}
	return false
}

// isSimpleToken reports whether a header name consists of letters, digits, hyphens and underscores.
// RFC 9110, 5.6.2 allows other characters, but no client uses them.
func isSimpleToken(name []byte) bool {
	for _, c := range name {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return len(name) > 0
}

// isVisible reports whether p consists of printable ASCII and spaces.
func isVisible(p []byte) bool {
	for _, c := range p {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// isSimpleHost reports whether a Host header needs no closer look.
func isSimpleHost(host string) bool {
	return host != "" && strings.Trim(host, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-_:[]") == ""
}
