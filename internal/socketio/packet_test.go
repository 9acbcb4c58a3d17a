package socketio

import (
	"bytes"
	"errors"
	"strconv"
	"testing"
)

func TestParseHeader(t *testing.T) {
	type want struct {
		typ         Type
		attachments int
		namespace   string
		ackID       int64
		data        string
	}
	tests := []struct {
		name, in string
		want     want
	}{
		{"connect", `0`, want{Connect, 0, "/", -1, ``}},
		{"connect with payload", `0{"a":1}`, want{Connect, 0, "/", -1, `{"a":1}`}},
		{"connect to a namespace", `0/chat,`, want{Connect, 0, "/chat", -1, ``}},
		{"connect to a namespace, no comma", `0/chat`, want{Connect, 0, "/chat", -1, ``}},
		{"connect to a namespace with payload", `0/chat,{"a":1}`, want{Connect, 0, "/chat", -1, `{"a":1}`}},
		{"connect with the root named", `0/,{}`, want{Connect, 0, "/", -1, `{}`}},
		{"disconnect", `1`, want{Disconnect, 0, "/", -1, ``}},
		{"disconnect from a namespace", `1/chat,`, want{Disconnect, 0, "/chat", -1, ``}},
		{"disconnect with an object", `1{"message":"no"}`, want{Disconnect, 0, "/", -1, `{"message":"no"}`}},
		{"disconnect with a string, from a namespace", `1/chat,"no"`, want{Disconnect, 0, "/chat", -1, `"no"`}},
		{"disconnect with an id", `1/chat,12`, want{Disconnect, 0, "/chat", 12, ``}},
		{"disconnect with an id beyond 64 bits", `199999999999999999999[]`, want{Disconnect, 0, "/", -1, `99999999999999999999[]`}},
		{"disconnect with garbage", `1x`, want{Disconnect, 0, "/", -1, `x`}},
		{"connect error with an id beyond 64 bits", `4/chat,99999999999999999999{}`, want{ConnectError, 0, "/chat", -1, `99999999999999999999{}`}},
		{"event", `2["a"]`, want{Event, 0, "/", -1, `["a"]`}},
		{"event without arguments", `2[]`, want{Event, 0, "/", -1, `[]`}},
		{"event with ack id", `212["a"]`, want{Event, 0, "/", 12, `["a"]`}},
		{"event with ack id 0", `20["a"]`, want{Event, 0, "/", 0, `["a"]`}},
		{"event with leading zeros", `2007["a"]`, want{Event, 0, "/", 7, `["a"]`}},
		{"largest ack id", `29007199254740991["a"]`, want{Event, 0, "/", 1<<53 - 1, `["a"]`}},
		{"event in a namespace", `2/chat,12["hi"]`, want{Event, 0, "/chat", 12, `["hi"]`}},
		{"namespace with brackets and digits", `2/a[1]{,["a"]`, want{Event, 0, "/a[1]{", -1, `["a"]`}},
		{"namespace with a query", `2/chat?x=[1,["a"]`, want{Event, 0, "/chat?x=[1", -1, `["a"]`}},
		{"namespace beyond ASCII", `2/häuser,["a"]`, want{Event, 0, "/häuser", -1, `["a"]`}},
		{"a slash in the arguments", `2["/chat,"]`, want{Event, 0, "/", -1, `["/chat,"]`}},
		{"ack", `35[1]`, want{Ack, 0, "/", 5, `[1]`}},
		{"ack in a namespace", `3/chat,5[]`, want{Ack, 0, "/chat", 5, `[]`}},
		{"connect error", `4{"message":"no"}`, want{ConnectError, 0, "/", -1, `{"message":"no"}`}},
		{"connect error as a string", `4/chat,"no"`, want{ConnectError, 0, "/chat", -1, `"no"`}},
		{"connect error without payload", `4/chat,`, want{ConnectError, 0, "/chat", -1, ``}},
		{"binary event", `51-["a",{"_placeholder":true,"num":0}]`, want{BinaryEvent, 1, "/", -1, `["a",{"_placeholder":true,"num":0}]`}},
		{"binary event without attachments", `50-["a"]`, want{BinaryEvent, 0, "/", -1, `["a"]`}},
		{"binary event with all", `512-/chat,34["a"]`, want{BinaryEvent, 12, "/chat", 34, `["a"]`}},
		{"binary ack", `62-/chat,9[0]`, want{BinaryAck, 2, "/chat", 9, `[0]`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, err := ParseHeader([]byte(tt.in))
			if err != nil {
				t.Fatalf("ParseHeader(%q): %v", tt.in, err)
			}
			if got := (want{h.Type, h.Attachments, string(h.Namespace), h.AckID, tt.in[h.Data:]}); got != tt.want {
				t.Errorf("ParseHeader(%q) = %+v, want %+v", tt.in, got, tt.want)
			}
		})
	}
}

func TestParseHeaderMalformed(t *testing.T) {
	tests := []struct{ name, in string }{
		{"empty", ``},
		{"unknown type", `7["a"]`},
		{"no type", `["a"]`},
		{"event without payload", `2`},
		{"event with half a payload", `2[`},
		{"event in a namespace without payload", `2/chat,`},
		{"event in a namespace without comma", `2/chat["a"]`},
		{"event with an object", `2{}`},
		{"event with text before the payload", `2x["a"]`},
		{"connect with an array", `0[]`},
		{"connect with a string", `0"a"`},
		{"ack without id", `3[]`},
		{"ack with an object", `31{}`},
		{"binary ack without id", `61-[]`},
		{"binary event without count", `5["a"]`},
		{"binary event with an empty count", `5-["a"]`},
		{"binary event with a negative count", `5-1-["a"]`},
		{"binary event with a fraction", `51.5-["a"]`},
		{"binary event cut after its count", `51`},
		{"attachments beyond what can be", `52147483648-["a"]`},
		{"attachments beyond a JavaScript integer", `599999999999999999999-["a"]`},
		{"ack id beyond a JavaScript integer", `29007199254740992["a"]`},
		{"ack id beyond 64 bits", `299999999999999999999["a"]`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if h, err := ParseHeader([]byte(tt.in)); !errors.Is(err, ErrMalformed) {
				t.Errorf("ParseHeader(%q) = %+v, %v; want ErrMalformed", tt.in, h, err)
			}
		})
	}
}

func TestHeaderKinds(t *testing.T) {
	tests := []struct {
		in                          string
		event, ack, binary, hasAnID bool
	}{
		{`0{}`, false, false, false, false},
		{`1`, false, false, false, false},
		{`2["a"]`, true, false, false, false},
		{`20["a"]`, true, false, false, true},
		{`30[]`, false, true, false, true},
		{`4{}`, false, false, false, false},
		{`51-["a"]`, true, false, true, false},
		{`51-3["a"]`, true, false, true, true},
		{`61-3[]`, false, true, true, true},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			h, err := ParseHeader([]byte(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if h.IsEvent() != tt.event || h.IsAck() != tt.ack || h.IsBinary() != tt.binary || h.HasAck() != tt.hasAnID {
				t.Errorf("%q: event %v, ack %v, binary %v, has an id %v; want %v, %v, %v, %v", tt.in,
					h.IsEvent(), h.IsAck(), h.IsBinary(), h.HasAck(), tt.event, tt.ack, tt.binary, tt.hasAnID)
			}
		})
	}
}

func TestSplitArray(t *testing.T) {
	tests := []struct{ name, in, head, tail string }{
		{"one argument", `2["a"]`, `2["a"`, `]`},
		{"several", `2["a",1,null]`, `2["a",1,null`, `]`},
		{"in a namespace", `2/chat,["a"]`, `2/chat,["a"`, `]`},
		{"an empty array last", `2["a",[]]`, `2["a",[]`, `]`},
		{"only an empty array", `2[[]]`, `2[[]`, `]`},
		{"a bracket in a string", `2["]"]`, `2["]"`, `]`},
		{"an opening bracket in a string", `2["["]`, `2["["`, `]`},
		{"binary", `51-["a",{"_placeholder":true,"num":0}]`, `51-["a",{"_placeholder":true,"num":0}`, `]`},
		{"white space after it", "2[\"a\"] \r\n\t", `2["a"`, "] \r\n\t"},
		{"white space in it", `2["a" ]`, `2["a" `, `]`},
		{"a bracket in the namespace", `2/a[b,["a"]`, `2/a[b,["a"`, `]`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			head, tail, ok := SplitArray([]byte(tt.in))
			if !ok || string(head) != tt.head || string(tail) != tt.tail {
				t.Errorf("SplitArray(%q) = %q, %q, %v; want %q, %q", tt.in, head, tail, ok, tt.head, tt.tail)
			}
		})
	}
}

func TestSplitArrayRefuses(t *testing.T) {
	tests := []struct{ name, in string }{
		{"nothing", ``},
		{"white space", ` `},
		{"no array", `2{}`},
		{"a bracket alone", `]`},
		{"no end", `2["a"`},
		{"empty", `2[]`},
		{"empty, with white space", "2[ \n]\t"},
		{"empty, in a namespace", `2/chat,[]`},
		{"empty, in a namespace with a bracket", `2/a[b,[]`},
		{"empty, in a namespace with an array's brackets", `2/[],[ ]`},
		{"text after it", `2["a"]x`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if head, tail, ok := SplitArray([]byte(tt.in)); ok {
				t.Errorf("SplitArray(%q) = %q, %q, true; want false", tt.in, head, tail)
			}
		})
	}
}

func TestAppend(t *testing.T) {
	tests := []struct {
		name, want string
		got        []byte
	}{
		{"disconnect", `1`, AppendDisconnect(nil, Root)},
		{"disconnect from a namespace", `x1/chat,`, AppendDisconnect([]byte("x"), "/chat")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if string(tt.got) != tt.want {
				t.Errorf("got %q, want %q", tt.got, tt.want)
			}
		})
	}
}

// encode writes a header as the reference encoder does.
func encode(h Header) []byte {
	p := []byte{byte(h.Type)}
	if h.IsBinary() {
		p = strconv.AppendInt(p, int64(h.Attachments), 10)
		p = append(p, '-')
	}
	if string(h.Namespace) != Root {
		p = append(p, h.Namespace...)
		p = append(p, ',')
	}
	if h.HasAck() {
		p = strconv.AppendInt(p, h.AckID, 10)
	}
	return p
}

func TestParseHeaderAliasesThePacket(t *testing.T) {
	p := []byte(`2/chat,["a"]`)
	h, err := ParseHeader(p)
	if err != nil {
		t.Fatal(err)
	}
	copy(p[1:], "/CHAT")
	if !bytes.Equal(h.Namespace, []byte("/CHAT")) {
		t.Errorf("the namespace is a copy, %q: that costs an allocation a packet", h.Namespace)
	}
}

func TestAppendWithAckID(t *testing.T) {
	for packet, want := range map[string]string{
		`21["x"]`: `24294967297["x"]`, `2/a,17["1"]`: `2/a,4294967297["1"]`, `51-0["x",{"_placeholder":true,"num":0}]`: `51-4294967297["x",{"_placeholder":true,"num":0}]`,
		`52-/7,7["x"]`: `52-/7,4294967297["x"]`, `3/a,9[]`: `3/a,4294967297[]`, `312[1]`: `34294967297[1]`, `61-/b,3[]`: `61-/b,4294967297[]`,
	} {
		h, err := ParseHeader([]byte(packet))
		if err != nil {
			t.Fatal(packet, err)
		}
		got := AppendWithAckID(nil, []byte(packet), &h, 1<<32+1)
		if string(got) != want {
			t.Errorf("%s becomes %s, want %s", packet, got, want)
		}
		again, err := ParseHeader(got)
		if err != nil || again.AckID != 1<<32+1 || again.Type != h.Type || string(again.Namespace) != string(h.Namespace) {
			t.Errorf("%s reads as %+v, %v", got, again, err)
		}
	}
}
