package engineio

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/internal/netpoll"
	"github.com/holdfast/holdfast/internal/steady"
)

func TestMain(m *testing.M) {
	// "make network" runs the tests with and without the event loop.
	if err := netpoll.Setup(os.Getenv("TEST_EVENT_LOOP") != "off"); err != nil {
		panic(err)
	}
	// Event loops live as long as the process.
	steady.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/holdfast/holdfast/internal/netpoll.(*loop).run"))
}

// String returns a packet as in a payload, but binary data in hexadecimal.
func (p Packet) String() string {
	if p.Binary {
		return fmt.Sprintf("b%x", p.Data)
	}
	return string(p.Type) + string(p.Data)
}

// decodeAll returns the packets of a payload, as text.
func decodeAll(payload string) ([]string, error) {
	var got []string
	err := DecodePayload([]byte(payload), func(p Packet) bool {
		got = append(got, p.String())
		return true
	})
	return got, err
}

func TestDecodePayload(t *testing.T) {
	tests := []struct {
		name, in string
		want     []string
		err      error
	}{
		{"one message", "4hello", []string{"4hello"}, nil},
		{"message without data", "4", []string{"4"}, nil},
		{"several packets", "4hello\x1e2\x1e4world", []string{"4hello", "2", "4world"}, nil},
		{"every type", "0{}\x1e1\x1e2\x1e3probe\x1e4\x1e5\x1e6", []string{"0{}", "1", "2", "3probe", "4", "5", "6"}, nil},
		{"binary", "4hello\x1ebAQIDBA==", []string{"4hello", "b01020304"}, nil},
		{"binary without padding", "bAQIDBA", []string{"b01020304"}, nil},
		{"binary without data", "b", []string{"b"}, nil},
		{"text beyond ASCII", "4€uro\x1e4😀", []string{"4€uro", "4😀"}, nil},
		{"empty", "", nil, ErrMalformed},
		{"empty packet at the end", "4a\x1e", []string{"4a"}, ErrMalformed},
		{"empty packet between", "4a\x1e\x1e4b", []string{"4a"}, ErrMalformed},
		{"unknown type", "4a\x1e7\x1e4b", []string{"4a"}, ErrMalformed},
		{"not a packet", "abc", nil, ErrMalformed},
		{"bad base64", "bAQ!D\x1e4b", nil, ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeAll(tt.in)
			if !errors.Is(err, tt.err) || !slices.Equal(got, tt.want) {
				t.Errorf("DecodePayload(%q) = %q, %v; want %q, %v", tt.in, got, err, tt.want, tt.err)
			}
		})
	}
}

func TestDecodePayloadStops(t *testing.T) {
	calls := 0
	err := DecodePayload([]byte("4a\x1e1\x1e4b\x1e?"), func(p Packet) bool {
		calls++
		return p.Type != Close
	})
	if err != nil || calls != 2 {
		t.Errorf("got %d packets and %v, want 2 and no error", calls, err)
	}
}

// Packets survive decoding and encoding again.
func FuzzDecodePayload(f *testing.F) {
	for _, seed := range []string{
		"", "4hello", "4hello\x1e2\x1e4world", "4hello\x1ebAQIDBA==", "6\x1e1", "0{\"sid\":\"x\"}\x1e40", "b", "b=", "bA", "bAQ\nID",
		"\x1e", "4\x1e", "4\xff\x1e451-[\"x\",{\"_placeholder\":true,\"num\":0}]\x1ebAA==",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		original := bytes.Clone(payload)
		var packets []Packet
		err := DecodePayload(payload, func(p Packet) bool {
			packets = append(packets, p)
			return true
		})
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Fatalf("error %v does not wrap ErrMalformed", err)
		}
		if !bytes.Equal(payload, original) {
			t.Fatal("the payload was changed")
		}
		if parts := bytes.Count(payload, []byte{separator}) + 1; err == nil && len(packets) != parts || len(packets) > parts {
			t.Fatalf("%d packets of %d parts, and error %v", len(packets), parts, err)
		}
		if len(packets) == 0 {
			return
		}
		e := newEncoder(payloadFormat)
		defer e.free()
		for _, p := range packets {
			if p.Binary {
				e.Binary(p.Data)
			} else {
				e.packet(p.Type, p.Data, nil, nil)
			}
		}
		var again []Packet
		if err := DecodePayload(e.buf, func(p Packet) bool {
			again = append(again, p)
			return true
		}); err != nil {
			t.Fatalf("what was encoded does not decode: %v", err)
		}
		if !slices.EqualFunc(packets, again, func(a, b Packet) bool {
			return a.Type == b.Type && a.Binary == b.Binary && bytes.Equal(a.Data, b.Data)
		}) {
			t.Fatalf("%v became %v", packets, again)
		}
	})
}

func TestParseHandshake(t *testing.T) {
	ok := Handshake{SID: "abc", Upgrades: []string{"websocket"}, PingInterval: 25000, PingTimeout: 20000, MaxPayload: 1e6}
	without := func(change func(h *Handshake)) Handshake {
		h := ok
		change(&h)
		return h
	}
	tests := []struct {
		name, in string
		want     Handshake
		err      error
	}{
		{
			"engine.io's",
			`{"sid":"abc","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`,
			ok, nil,
		},
		{
			"without maxPayload", `{"sid":"abc","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000}`,
			without(func(h *Handshake) { h.MaxPayload = 0 }), nil,
		},
		{
			"unknown keys", `{"sid":"abc","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1e6,"x":{}}`,
			without(func(h *Handshake) { h.Upgrades = []string{} }), nil,
		},
		{
			"numbers with fractions", `{"sid":"abc","upgrades":null,"pingInterval":25000.0,"pingTimeout":20000.5,"maxPayload":1e6}`,
			without(func(h *Handshake) { h.Upgrades = nil }), nil,
		},
		{
			"numbers without bounds", `{"sid":"abc","pingInterval":1e300,"pingTimeout":9007199254740991,"maxPayload":1e300}`,
			Handshake{SID: "abc", PingInterval: maxHandshakeValue, PingTimeout: maxHandshakeValue, MaxPayload: maxHandshakeValue},
			nil,
		},
		{
			"negative maxPayload", `{"sid":"abc","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":-1}`,
			without(func(h *Handshake) { h.MaxPayload = 0 }), nil,
		},
		{"empty", ``, Handshake{}, ErrMalformed},
		{"not an object", `"abc"`, Handshake{}, ErrMalformed},
		{"null", `null`, Handshake{}, ErrMalformed},
		{"no sid", `{"pingInterval":25000,"pingTimeout":20000}`, Handshake{}, ErrMalformed},
		{"sid not a string", `{"sid":1,"pingInterval":25000,"pingTimeout":20000}`, Handshake{}, ErrMalformed},
		{"no pingInterval", `{"sid":"abc","pingTimeout":20000}`, Handshake{}, ErrMalformed},
		{
			"python-engineio with an interval below a second", `{"sid":"abc","pingInterval":0,"pingTimeout":20000}`,
			Handshake{SID: "abc", PingInterval: 1000, PingTimeout: 20000},
			nil,
		},
		{"less than a millisecond", `{"sid":"abc","pingInterval":0.5,"pingTimeout":20000}`, Handshake{}, ErrMalformed},
		{"negative pingTimeout", `{"sid":"abc","pingInterval":25000,"pingTimeout":-20000}`, Handshake{}, ErrMalformed},
		{"cut off", `{"sid":"abc","pingInterval":25000,"pingTimeout":200`, Handshake{}, ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseHandshake([]byte(tt.in))
			if !errors.Is(err, tt.err) || !equalHandshakes(got, tt.want) || !slices.Equal(got.Upgrades, tt.want.Upgrades) {
				t.Errorf("ParseHandshake(%s) = %+v, %v; want %+v, %v", tt.in, got, err, tt.want, tt.err)
			}
		})
	}
}

// equalHandshakes compares everything except the upgrades.
func equalHandshakes(a, b Handshake) bool {
	a.Upgrades, b.Upgrades = nil, nil
	return fmt.Sprint(a) == fmt.Sprint(b)
}

func TestHandshakeEncode(t *testing.T) {
	h := Handshake{SID: "abc", PingInterval: 25000, PingTimeout: 20000, MaxPayload: 1e6}
	const want = `{"sid":"abc","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`
	if got := string(h.Encode()); got != want {
		t.Errorf("Encode() = %s, want %s", got, want) // the reference server's order of keys
	}
	h.MaxPayload = 0
	h.Upgrades = []string{"websocket"}
	const absent = `{"sid":"abc","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000}`
	if got := string(h.Encode()); got != absent {
		t.Errorf("Encode() = %s, want %s", got, absent)
	}
}

func FuzzParseHandshake(f *testing.F) {
	for _, seed := range []string{
		`{"sid":"abc","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`,
		`{"sid":"abc","pingInterval":1e300,"pingTimeout":1e-300,"maxPayload":-1}`, `{"SID":"x"}`, `{}`, `null`, `[]`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ParseHandshake(data)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error %v does not wrap ErrMalformed", err)
			}
			return
		}
		if h.interval() <= 0 || h.timeout() <= 0 || h.interval()+h.timeout() <= 0 || h.MaxPayload < 0 || h.MaxPayload > math.MaxInt64/2 {
			t.Fatalf("%+v is not usable", h)
		}
		again, err := ParseHandshake(h.Encode())
		if err != nil || !equalHandshakes(h, again) || !slices.Equal(h.Upgrades, again.Upgrades) {
			t.Fatalf("%+v became %+v, %v", h, again, err)
		}
	})
}

func ExampleParseHandshake() {
	h, err := ParseHandshake([]byte(`{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000}`))
	if err != nil {
		panic(err)
	}
	fmt.Println(h.SID, time.Duration(h.PingInterval)*time.Millisecond)
	// Output: lv_VI97HAXpY6yYWAAAC 25s
}

func ExampleDecodePayload() {
	err := DecodePayload([]byte("4hello\x1ebAQIDBA==\x1e3"), func(p Packet) bool {
		fmt.Printf("%c %v %q\n", p.Type, p.Binary, p.Data)
		return true
	})
	if err != nil {
		panic(err)
	}
	// Output:
	// 4 false "hello"
	// 4 true "\x01\x02\x03\x04"
	// 3 false ""
}

func BenchmarkDecodePayload(b *testing.B) {
	for _, bb := range []struct{ name, in string }{
		{"one event", `42["msg","hi"]`},
		{"64 events", strings.Repeat(`42["msg","hi"]`+"\x1e", 63) + `42["msg","hi"]`},
	} {
		b.Run(bb.name, func(b *testing.B) {
			payload := []byte(bb.in)
			b.SetBytes(int64(len(payload)))
			b.ReportAllocs()
			for b.Loop() {
				if err := DecodePayload(payload, func(Packet) bool { return true }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
