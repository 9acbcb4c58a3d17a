package frame

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

func TestFramesAreThoseOfAnotherImplementation(t *testing.T) {
	for _, size := range []int{0, 1, 3, 4, 5, 8, 125, 126, 127, 4096, 65535, 65536, 70000} {
		payload := []byte(strings.Repeat("0123456789abc", size/13+1)[:size])

		theirs := ws.MustCompileFrame(ws.NewTextFrame(payload))
		if ours := AppendServer(nil, Text, payload); !bytes.Equal(ours, theirs) {
			t.Errorf("size %d: server frame begins % x, want % x", size, ours[:2], theirs[:2])
		}
		key := [4]byte{1, 200, 3, 77}
		theirs = ws.MustCompileFrame(ws.MaskFrameWith(ws.NewTextFrame(payload), key))
		ours := AppendClient([]byte("before"), Text, payload, 77<<24|3<<16|200<<8|1)
		if !bytes.Equal(ours[len("before"):], theirs) {
			t.Errorf("size %d: client frame differs", size)
		}

		more := append(theirs, "more"...)
		for cut := range min(len(theirs), 20) {
			if _, n, err := Parse(more[:cut]); n != 0 || err != nil {
				t.Fatalf("size %d: Parse of the first %d bytes = %d, %v; want 0, nil", size, cut, n, err)
			}
		}
		f, n, err := Parse(more)
		if err != nil || n != len(theirs) || f.Opcode != Text || !bytes.Equal(f.Payload, payload) {
			t.Errorf("size %d: Parse = opcode %d, size %d, %v", size, f.Opcode, n, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	tests := []struct {
		name string
		in   []byte
	}{
		{"first fragment", []byte{0x01, 0}},
		{"continuation", []byte{0x80, 0}},
		{"compressed", []byte{0xc1, 0}},
		{"huge", []byte{0x81, 127, 1, 0, 0, 0, 0, 0, 0, 0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, n, err := Parse(tt.in); !errors.Is(err, ErrUnsupported) {
				t.Errorf("Parse(% x) = %d, %v; want ErrUnsupported", tt.in, n, err)
			}
		})
	}
}

func TestHandshake(t *testing.T) {
	const key = "dGhlIHNhbXBsZSBub25jZQ==" // and its answer: RFC 6455, section 1.3
	if got, want := AcceptKey(key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="; got != want {
		t.Errorf("AcceptKey = %q, want %q", got, want)
	}
	req := Request("host:1", "/socket.io/", key)
	if _, n, err := ParseRequest([]byte(req[:len(req)-1])); n != 0 || err != nil {
		t.Errorf("ParseRequest of a part = %d, %v; want 0, nil", n, err)
	}
	got, n, err := ParseRequest([]byte(req + "more"))
	if got != key || n != len(req) || err != nil {
		t.Errorf("ParseRequest = %q, %d, %v; want %q, %d", got, n, err, key, len(req))
	}
	res := Response(key)
	if n, err := ParseResponse([]byte(res+"more"), key); n != len(res) || err != nil {
		t.Errorf("ParseResponse = %d, %v; want %d", n, err, len(res))
	}
	if _, err := ParseResponse([]byte(res), "another"); !errors.Is(err, ErrHandshake) {
		t.Errorf("ParseResponse with another key: %v, want ErrHandshake", err)
	}
	if _, err := ParseResponse([]byte("HTTP/1.1 503 Busy\r\n\r\n"), key); !errors.Is(err, ErrHandshake) {
		t.Errorf("ParseResponse of a refusal: %v, want ErrHandshake", err)
	}
}
