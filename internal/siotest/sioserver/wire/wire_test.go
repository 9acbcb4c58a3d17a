package wire

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

func ExampleDecoder() {
	var d Decoder
	p, _, _ := d.Text([]byte(`2/chat,12["hi"]`))
	fmt.Println(p.Type, p.Namespace, p.ID, string(p.Data))
	// Output: EVENT /chat 12 ["hi"]
}

func TestDecoderText(t *testing.T) {
	tests := []struct {
		name, in string
		want     Packet
		err      error
	}{
		{"connect", `0`, Packet{Connect, "/", NoID, nil, nil}, nil},
		{"connect with auth", `0{"a":1}`, Packet{Connect, "/", NoID, json.RawMessage(`{"a":1}`), nil}, nil},
		{"connect to a namespace", `0/admin,{}`, Packet{Connect, "/admin", NoID, json.RawMessage(`{}`), nil}, nil},
		{"namespace without comma", `0/admin`, Packet{Connect, "/admin", NoID, nil, nil}, nil},
		{"disconnect", `1/admin,`, Packet{Disconnect, "/admin", NoID, nil, nil}, nil},
		{"event", `2["a",1]`, Packet{Event, "/", NoID, json.RawMessage(`["a",1]`), nil}, nil},
		{"event with ack id", `2/x,0["a"]`, Packet{Event, "/x", 0, json.RawMessage(`["a"]`), nil}, nil},
		{"event named by a number", `2[7]`, Packet{Event, "/", NoID, json.RawMessage(`[7]`), nil}, nil},
		{"ack", `312[]`, Packet{Ack, "/", 12, json.RawMessage(`[]`), nil}, nil},
		{"connect error", `4{"message":"no"}`, Packet{ConnectError, "/", NoID, json.RawMessage(`{"message":"no"}`), nil}, nil},
		{"binary event without attachments", `50-["a"]`, Packet{BinaryEvent, "/", NoID, json.RawMessage(`["a"]`), nil}, nil},

		{"empty", ``, Packet{}, ErrMalformed},
		{"unknown type", `7["a"]`, Packet{}, ErrMalformed},
		{"letters", `abc`, Packet{}, ErrMalformed},
		{"event without payload", `2`, Packet{}, ErrMalformed},
		{"event without name", `2[ ]`, Packet{}, ErrMalformed},
		{"event that is an object", `2{}`, Packet{}, ErrMalformed},
		{"event with bad ack id", `2abc["a"]`, Packet{}, ErrMalformed},
		{"event with bad JSON", `2["a"`, Packet{}, ErrMalformed},
		{"huge ack id", `21234567890123456["a"]`, Packet{}, ErrMalformed},
		{"ack that is an object", `31{}`, Packet{}, ErrMalformed},
		{"disconnect with payload", `1{}`, Packet{}, ErrMalformed},
		{"connect with an array", `0[]`, Packet{}, ErrMalformed},
		{"binary without dash", `51["a"]`, Packet{}, ErrMalformed},
		{"binary with nothing behind the count", `51`, Packet{}, ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var d Decoder
			got, complete, err := d.Text([]byte(tt.in))
			if !errors.Is(err, tt.err) || complete != (err == nil) || !reflect.DeepEqual(got, tt.want) {
				t.Fatalf("Text(%q) = %+v, %v, %v; want %+v, %v", tt.in, got, complete, err, tt.want, tt.err)
			}
			if err == nil && string(got.Append(nil)) != tt.in && !strings.HasSuffix(tt.in, "/admin") {
				t.Errorf("Append of %q = %q", tt.in, got.Append(nil))
			}
		})
	}
}

func TestDecoderJoinsAttachments(t *testing.T) {
	var d Decoder
	for range 2 { // the second packet needs a clean state
		if _, complete, err := d.Text([]byte(`52-/x,3["a",{"_placeholder":true,"num":0}]`)); complete || err != nil {
			t.Fatalf("text: complete %v, %v; want to wait for attachments", complete, err)
		}
		if _, _, err := d.Text([]byte(`2["b"]`)); !errors.Is(err, ErrMalformed) {
			t.Fatalf("text between attachments: %v, want ErrMalformed", err)
		}
		if _, complete, err := d.Binary([]byte("one")); complete || err != nil {
			t.Fatalf("first attachment: complete %v, %v", complete, err)
		}
		p, complete, err := d.Binary([]byte("two"))
		if !complete || err != nil || fmt.Sprintf("%s", p.Attachments) != "[one two]" || p.ID != 3 {
			t.Fatalf("second attachment: %+v, %v, %v", p, complete, err)
		}
		if _, _, err := d.Binary(nil); !errors.Is(err, ErrMalformed) {
			t.Fatalf("attachment too many: %v, want ErrMalformed", err)
		}
	}
}

func FuzzDecoder(f *testing.F) {
	for _, s := range []string{
		`0`, `0/a,{"x":1}`, `1`, `2["a"]`, `2/a,1["a",{"b":[null]}]`, `31[]`, `4{"message":"x"}`,
		`51-["a",{"_placeholder":true,"num":0}]`, `61-/a,7[{"_placeholder":true,"num":0}]`, ``, `9`, `2[`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var d Decoder
		p, complete, err := d.Text(in)
		for err == nil && !complete {
			if d.missing > 100 {
				return
			}
			p, complete, err = d.Binary([]byte("x"))
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("%q: %v does not wrap ErrMalformed", in, err)
			}
			return
		}
		// What was parsed parses to the same when it is encoded again.
		again := p.Append(nil)
		q, n, err := decode(again)
		if err != nil || n != len(p.Attachments) {
			t.Fatalf("%q -> %q: %v, %d attachments", in, again, err, n)
		}
		q.Attachments = p.Attachments
		if !reflect.DeepEqual(p, q) {
			t.Fatalf("%q -> %q: %+v, then %+v", in, again, p, q)
		}
		if p.Type == Event || p.Type == BinaryEvent {
			args, err := p.Args()
			if err != nil || len(args) == 0 {
				t.Fatalf("%q: Args() = %q, %v", in, args, err)
			}
			_, _ = Resolve(args, p.Attachments)
		}
	})
}

func TestMarshal(t *testing.T) {
	tests := []struct {
		name        string
		in          []any
		want        string
		attachments string
	}{
		{"nothing", nil, `[]`, `[]`},
		{"plain", []any{"a", 1, nil, true, map[string]any{"k": []any{2}}}, `["a",1,null,true,{"k":[2]}]`, `[]`},
		{"no HTML escapes", []any{"<&>"}, `["<&>"]`, `[]`},
		{"raw JSON", []any{json.RawMessage(`{"a":1}`)}, `[{"a":1}]`, `[]`},
		{"attachment", []any{"a", []byte("x")}, `["a",{"_placeholder":true,"num":0}]`, `[x]`},
		{
			"nested attachments",
			[]any{"a", map[string]any{"z": []byte("2"), "b": []any{[]byte("1")}}, []byte("3")},
			`["a",{"b":[{"_placeholder":true,"num":0}],"z":{"_placeholder":true,"num":1}},{"_placeholder":true,"num":2}]`,
			`[1 2 3]`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data, attachments, err := Marshal(tt.in)
			if err != nil || string(data) != tt.want || fmt.Sprintf("%s", attachments) != tt.attachments {
				t.Errorf("Marshal(%v) = %s, %s, %v; want %s, %s", tt.in, data, attachments, err, tt.want, tt.attachments)
			}
		})
	}
	if _, _, err := Marshal([]any{func() {}}); err == nil {
		t.Error("Marshal of a function: no error")
	}
}

func TestResolveIsTheInverseOfMarshal(t *testing.T) {
	in := []any{"a", []byte("top"), map[string]any{"k": []any{[]byte("deep"), 1.5}}}
	data, attachments, err := Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	args, err := Packet{Data: data}.Args()
	if err != nil {
		t.Fatal(err)
	}
	resolved, err := Resolve(args, attachments)
	if err != nil {
		t.Fatal(err)
	}
	if b, ok := resolved[1].([]byte); !ok || string(b) != "top" {
		t.Errorf("resolved[1] = %v, want []byte", resolved[1])
	}
	again, more, err := Marshal(resolved)
	if err != nil || !bytes.Equal(again, data) || !reflect.DeepEqual(more, attachments) {
		t.Errorf("Marshal(Resolve(%s)) = %s, %s, %v", data, again, more, err)
	}
}

func TestResolveRejectsBadPlaceholders(t *testing.T) {
	for _, in := range []string{
		`{"_placeholder":true,"num":1}`, `{"_placeholder":true,"num":-1}`, `{"_placeholder":true,"num":0.5}`,
		`{"_placeholder":true}`, `[{"x":{"_placeholder":true,"num":"splice"}}]`,
	} {
		got, err := Resolve([]json.RawMessage{json.RawMessage(in)}, [][]byte{nil})
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("Resolve(%s) = %v, %v; want ErrMalformed", in, got, err)
		}
	}
}

// frames concatenates masked frames.
func frames(t *testing.T, fs ...ws.Frame) []byte {
	t.Helper()
	var buf bytes.Buffer
	for _, f := range fs {
		if err := ws.WriteFrame(&buf, ws.MaskFrame(f)); err != nil {
			t.Fatal(err)
		}
	}
	return buf.Bytes()
}

func TestMessageReader(t *testing.T) {
	text := func(s string) ws.Frame { return ws.NewTextFrame([]byte(s)) }
	fragment := func(op ws.OpCode, fin bool, s string) ws.Frame { return ws.NewFrame(op, fin, []byte(s)) }
	tests := []struct {
		name string
		in   []ws.Frame
		want string // op and payload of each message
		code ws.StatusCode
	}{
		{"messages", []ws.Frame{text("a"), ws.NewBinaryFrame([]byte("b")), text("")}, "1:a 2:b 1: ", 0},
		{
			"fragments with a ping between",
			[]ws.Frame{
				fragment(ws.OpText, false, "ab"), ws.NewPingFrame([]byte("p")),
				fragment(ws.OpContinuation, false, "cd"), fragment(ws.OpContinuation, true, "ef"), text("g"),
			},
			"9:p 1:abcdef 1:g ", 0,
		},
		{"too big", []ws.Frame{text("0123456789"), text("0123456789a")}, "1:0123456789 ", ws.StatusMessageTooBig},
		{
			"too big in fragments",
			[]ws.Frame{fragment(ws.OpBinary, false, "012345"), fragment(ws.OpContinuation, true, "6789a")},
			"", ws.StatusMessageTooBig,
		},
		{"not UTF-8", []ws.Frame{text("\xff")}, "", ws.StatusInvalidFramePayloadData},
		{"continuation of nothing", []ws.Frame{fragment(ws.OpContinuation, true, "a")}, "", ws.StatusProtocolError},
		{"reserved op code", []ws.Frame{fragment(3, true, "a")}, "", ws.StatusProtocolError},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := NewMessageReader(bufio.NewReader(bytes.NewReader(frames(t, tt.in...))), ws.StateServerSide, 10)
			got := ""
			for {
				op, payload, err := r.Next()
				if err == nil {
					got += fmt.Sprintf("%d:%s ", op, payload)
					continue
				}
				var code ws.StatusCode
				if e, ok := errors.AsType[*CloseError](err); ok {
					code = e.Code
				} else if !errors.Is(err, io.EOF) {
					t.Fatalf("error %v", err)
				}
				if got != tt.want || code != tt.code {
					t.Errorf("got %q, code %d; want %q, %d", got, code, tt.want, tt.code)
				}
				return
			}
		})
	}
}

func TestMessageReaderWantsTheRightMask(t *testing.T) {
	for _, side := range []ws.State{ws.StateServerSide, ws.StateClientSide} {
		f := ws.NewTextFrame([]byte("a"))
		if side == ws.StateClientSide {
			f = ws.MaskFrame(f)
		}
		var buf bytes.Buffer
		if err := ws.WriteFrame(&buf, f); err != nil {
			t.Fatal(err)
		}
		_, _, err := NewMessageReader(bufio.NewReader(&buf), side, 0).Next()
		if e, ok := errors.AsType[*CloseError](err); !ok || e.Code != ws.StatusProtocolError {
			t.Errorf("side %d: %v, want a protocol error", side, err)
		}
	}
}

func TestPutFrameHeader(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 65535, 65536, 100_000} {
		payload := bytes.Repeat([]byte("x"), n)
		buf := append(make([]byte, MaxFrameHeader), payload...)
		frame, header := PutFrameHeader(buf, ws.OpBinary)
		want := ws.MustCompileFrame(ws.NewBinaryFrame(payload))
		if !bytes.Equal(frame, want) || !bytes.Equal(frame[header:], payload) {
			t.Errorf("%d bytes: frame begins % x, want % x", n, frame[:min(len(frame), 12)], want[:min(len(want), 12)])
		}
	}
}
