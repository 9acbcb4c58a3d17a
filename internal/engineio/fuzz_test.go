package engineio

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
)

// A POST delivers the messages that a naive parser finds, up to the first packet that ends the
// session. An invalid POST is answered as in the reference server.
func FuzzPost(f *testing.F) {
	for _, seed := range []string{
		"", "4hello", "4a\x1e3\x1e4b", "4a\x1e1\x1e4b", "4a\x1e2\x1e4b", "bAQID\x1e4x", "b!!", "4\xff\xfe\x1e4\xf0", "\x1e\x1e\x1e", "5\x1e6\x1e0",
		"451-[\"x\",{\"_placeholder\":true,\"num\":0}]\x1ebAA==", strings.Repeat("4\x1e", 100) + "4", "9", "1",
	} {
		f.Add([]byte(seed), "text/plain;charset=UTF-8", false)
	}
	f.Add([]byte("4a"), "application/octet-stream", false)
	f.Add(bytes.Repeat([]byte("4"), 600), "", true)
	f.Fuzz(func(t *testing.T, body []byte, contentType string, chunked bool) {
		const maxPayload = 512
		h := newFakeHandler()
		s := NewSocket("sid", Options{PingInterval: time.Minute, PingTimeout: time.Minute, MaxPayload: maxPayload}, h)
		s.Start()
		defer s.Abort()
		length := int64(len(body))
		if chunked {
			length = -1
		}
		if string(bytes.ToValidUTF8(body, []byte("\uFFFD"))) == "1" {
			return // it waits for a poll
		}
		a, ok := s.Post(t.Context(), "id1", contentType, length, bytes.NewReader(body))
		messages := slices.DeleteFunc(h.took(), func(e string) bool { return !strings.HasPrefix(e, "message ") })
		want := naiveMessages(body)
		status := http.StatusOK
		switch {
		case contentType == "application/octet-stream":
			status, want = http.StatusBadRequest, nil
		case len(body) > maxPayload:
			status, want = http.StatusRequestEntityTooLarge, nil
		}
		if !ok || a.Status != status {
			t.Errorf("answered %d, %v; want %d", a.Status, ok, status)
		}
		if !slices.Equal(messages, want) {
			t.Errorf("messages %q, want %q", messages, want)
		}
	})
}

// naiveMessages returns the messages of a body, in the notation of fakeHandler.
func naiveMessages(body []byte) []string {
	var messages []string
	for part := range strings.SplitSeq(string(bytes.ToValidUTF8(body, []byte("\uFFFD"))), "\x1e") {
		switch {
		case strings.HasPrefix(part, "4"):
			messages = append(messages, "message "+Packet{Type: Message, Data: []byte(part[1:])}.String())
		case strings.HasPrefix(part, "b"):
			data, err := decodeBase64([]byte(part[1:]))
			if err != nil {
				return messages
			}
			messages = append(messages, "message "+Packet{Type: Message, Binary: true, Data: data}.String())
		case part != "" && strings.Contains("0356", part[:1]):
		default:
			return messages
		}
	}
	return messages
}

// Whatever a server answers to a handshake, and sends after it, Dial returns in time and Close ends
// the Conn.
func FuzzDial(f *testing.F) {
	const open = `{"sid":"u","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000}`
	frame := func(texts ...string) string {
		e := newEncoder(serverFrames)
		defer e.free()
		for _, s := range texts {
			e.packet(PacketType(s[0]), []byte(s[1:]), nil, nil)
		}
		return string(e.buf)
	}
	for _, ws := range []bool{true, false} {
		f.Add(ws, true, []byte(frame("0"+open, "440", "2", "4hi")))
		f.Add(ws, true, []byte("0"+open+"\x1e440\x1ebAQ=="))
		f.Add(ws, true, []byte(frame("0{}")))
		f.Add(ws, true, []byte(strings.Replace(frame("0"+open), "25000", "-1e99", 1)))
		f.Add(ws, false, []byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno!"))
		f.Add(ws, false, []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n0{}\x1e4\r\n0\r\n\r\n"))
		f.Add(ws, false, []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"))
		f.Add(ws, false, []byte("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n0"))
		f.Add(ws, false, []byte("HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nSet-Cookie: a=b\r\n\r\n"))
		f.Add(ws, false, []byte("\x16\x03\x01\x00"))
	}
	f.Fuzz(func(t *testing.T, webSocket, valid bool, answer []byte) {
		checkDial(t, Request{WebSocket: webSocket}, valid, answer)
	})
}

// FuzzDial3 is FuzzDial for version 3.
func FuzzDial3(f *testing.F) {
	for _, websocket := range []bool{true, false} {
		f.Add(websocket, true, []byte("68:"+open3+"2:40"))
		f.Add(websocket, true, []byte(binary3(open3, "40", "2")+"\x01\x03\xff\x04\x01\x02"))
		f.Add(websocket, true, wire(fromServer(ws.OpText, open3), fromServer(ws.OpText, "40"), fromServer(ws.OpBinary, "\x04x")))
		f.Add(websocket, false, []byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno!"))
	}
	f.Fuzz(func(t *testing.T, webSocket, valid bool, answer []byte) {
		checkDial(t, Request{Protocol: V3, WebSocket: webSocket, PollIfRefused: true}, valid, answer)
	})
}

// checkDial dials a server that gives one answer to each request.
func checkDial(t *testing.T, r Request, valid bool, answer []byte) {
	webSocket := r.WebSocket
	r.Path, r.RawQuery, r.Host, r.Header = "/socket.io/", "EIO=4&transport=x", "server", http.Header{}
	synctest.Test(t, func(t *testing.T) {
		answering := func(conn net.Conn) {
			defer conn.Close()
			for { // one answer per request: polling repeats
				r, err := readRequest(conn)
				if err != nil {
					return
				}
				go io.Copy(io.Discard, conn) //nolint:errcheck // ends with the connection
				polls := r.URL.Query().Get("sid") != ""
				if polls {
					time.Sleep(100 * time.Millisecond)
				}
				if _, err := conn.Write(respond(r, valid, answer)); err != nil || webSocket || polls {
					time.Sleep(30 * time.Second)
					return
				}
			}
		}
		dial := func(context.Context) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go answering(theirs) // ends within a minute
			return ours, nil
		}
		d := &Dialer{DialContext: dial, Timeout: 10 * time.Second, MaxPayload: 1000}
		start := time.Now()
		conn, err := d.Dial(t.Context(), r)
		if took := time.Since(start); took > d.Timeout {
			t.Errorf("Dial took %v", took)
		}
		if err == nil {
			if h := conn.Handshake(); h.SID == "" || h.PingInterval <= 0 || h.PingTimeout <= 0 || h.MaxPayload < 0 {
				t.Errorf("handshake %+v", h)
			}
			conn.Start(newConnLog())
			time.Sleep(time.Second)
			conn.Close()
		}
		time.Sleep(time.Minute)
	})
}

func readRequest(conn net.Conn) (*http.Request, error) {
	var b []byte
	one := make([]byte, 1)
	for !bytes.HasSuffix(b, []byte("\r\n\r\n")) {
		if _, err := conn.Read(one); err != nil {
			return nil, err
		}
		b = append(b, one...)
	}
	return http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
}

// respond returns answer as it is, or after a valid response header.
func respond(r *http.Request, valid bool, answer []byte) []byte {
	key := r.Header.Get("Sec-WebSocket-Key")
	switch {
	case !valid:
		return answer
	case key != "":
		return append(fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: %s\r\n\r\n", acceptKey(key)), answer...)
	}
	return append(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(answer)), answer...)
}
