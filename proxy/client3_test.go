package proxy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// peer3 is a client of Engine.IO 3, byte by byte: its connection may end after a number of bytes
// from holdfast. It speaks over a WebSocket, or polls over one TCP connection.
type peer3 struct {
	t     *testing.T
	query string // of each request
	conn  net.Conn
	in    *bufio.Reader
	polls bool
	cut   bool // it has received as many bytes as it may

	limited bool

	sid       string
	connected []string // namespaces
	events    []string // texts, without those of /admin's
	numbers   []int    // of the events "n"
	sure      int      // how many of the numbers it has confirmed
	binary    []string
}

// yeastClock makes the parameter t of polling requests: it grows over all clients of a test.
var yeastClock = time.Now().UnixMilli()

func nextYeast() string {
	yeastClock++
	var digits []byte
	for n := yeastClock; n > 0; n /= 64 {
		digits = append([]byte{yeastDigits[n%64]}, digits...)
	}
	return string(digits)
}

// dial3 opens a connection over a WebSocket, or begins to poll. It ends after limit bytes, HTTP's
// heads of WebSocket handshakes excluded, or with the test if limit is negative.
func dial3(t *testing.T, url, query string, polls bool, limit int64) *peer3 {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	p := &peer3{t: t, query: query, conn: conn, polls: polls, limited: limit >= 0}
	limited := io.Reader(conn)
	if polls {
		if limit >= 0 {
			limited = io.LimitReader(conn, limit)
		}
		p.in = bufio.NewReader(limited)
		p.handle(p.request(http.MethodGet, nil))
		return p
	}
	_, err = fmt.Fprintf(conn, "GET /socket.io/?EIO=3&transport=websocket&%s HTTP/1.1\r\nHost: app\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", query)
	if err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil) //nolint:bodyclose // the rest is the WebSocket
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal("handshake:", resp, err)
	}
	limited = br
	if limit >= 0 {
		limited = io.LimitReader(br, limit)
	}
	p.in = bufio.NewReader(limited)
	return p
}

// request makes a polling request, and returns the answer's body. It is empty if the connection was
// cut.
func (p *peer3) request(method string, body []byte) []byte {
	p.t.Helper()
	sid := ""
	if p.sid != "" {
		sid = "&sid=" + p.sid
	}
	_, err := fmt.Fprintf(p.conn, "%s /socket.io/?EIO=3&transport=polling&%s%s&t=%s HTTP/1.1\r\nHost: app\r\n"+
		"Content-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n%s", method, p.query, sid, nextYeast(), len(body), body)
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := http.ReadResponse(p.in, nil)
	if err != nil {
		p.ended(err)
		return nil
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		p.ended(err)
		return nil
	}
	if resp.StatusCode != http.StatusOK {
		p.t.Fatalf("%s is answered with %s: %q", method, resp.Status, answer)
	}
	return answer
}

func (p *peer3) ended(err error) {
	p.t.Helper()
	p.cut = true
	if !p.limited && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, net.ErrClosed) {
		p.t.Error(err)
	}
}

// handle handles a payload in the binary form.
func (p *peer3) handle(payload []byte) {
	for len(payload) > 0 {
		head, rest, ok := bytes.Cut(payload, []byte{0xff})
		if !ok {
			p.t.Fatalf("payload %q", payload)
		}
		n := 0
		for _, digit := range head[1:] {
			n = n*10 + int(digit)
		}
		p.packet(rest[:n], head[0] == 1)
		payload = rest[n:]
	}
}

// read handles what comes until stop returns true, or the connection ends.
func (p *peer3) read(stop func() bool) {
	p.t.Helper()
	for !stop() && !p.cut {
		if p.polls {
			p.sure = len(p.numbers) // the poll confirms the one before
			p.handle(p.request(http.MethodGet, nil))
			continue
		}
		f, err := ws.ReadFrame(p.in)
		switch {
		case err != nil:
			p.ended(err)
		case f.Header.OpCode == ws.OpPing:
			p.write(ws.NewPongFrame(f.Payload))
			p.sure = len(p.numbers)
		case f.Header.OpCode == ws.OpClose:
			p.cut = true
		default:
			p.packet(f.Payload, f.Header.OpCode == ws.OpBinary)
		}
	}
}

func (p *peer3) packet(data []byte, binary bool) {
	text := string(data)
	switch {
	case binary:
		p.binary = append(p.binary, text[1:])
	case strings.HasPrefix(text, "0"):
		var open struct{ SID string }
		if err := json.Unmarshal(data[1:], &open); err != nil {
			p.t.Fatal(err)
		}
		p.sid = open.SID
	case strings.HasPrefix(text, "40"):
		namespace, _, _ := strings.Cut(text[2:], ",")
		if namespace == "" {
			namespace = "/"
		}
		p.connected = append(p.connected, namespace)
	case strings.HasPrefix(text, `42["n",`):
		n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(text, `42["n",`), "]"))
		if err != nil {
			p.t.Fatalf("event %q", text)
		}
		p.numbers = append(p.numbers, n)
	case strings.HasPrefix(text, "4"):
		p.events = append(p.events, text[1:])
	}
}

func (p *peer3) write(f ws.Frame) {
	_ = ws.WriteFrame(p.conn, ws.MaskFrameInPlace(f)) // fails once holdfast has closed the connection
}

// send sends texts, each followed by attachments.
func (p *peer3) send(text string, attachments ...string) {
	p.t.Helper()
	if !p.polls {
		p.write(ws.NewTextFrame([]byte(text)))
		for _, a := range attachments {
			p.write(ws.NewBinaryFrame([]byte("\x04" + a)))
		}
		return
	}
	payload := "\x00" + length3(len(text)) + "\xff" + text
	for _, a := range attachments {
		payload += "\x01" + length3(len(a)+1) + "\xff\x04" + a
	}
	if got := p.request(http.MethodPost, []byte(payload)); !p.cut && string(got) != "ok" {
		p.t.Errorf("a POST is answered with %q", got)
	}
}

func length3(n int) string {
	digits := []byte(strconv.Itoa(n))
	for i := range digits {
		digits[i] -= '0'
	}
	return string(digits)
}

// has reports whether an event has arrived.
func (p *peer3) has(event string) func() bool {
	return func() bool { return slices.Contains(p.events, event) }
}
