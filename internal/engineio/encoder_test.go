package engineio

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

// fill adds packets of each kind to an Encoder.
func fill(e *Encoder) {
	e.Text([]byte("2/chat,"), []byte(`["msg"`), []byte(`,"x"]`))
	e.Binary([]byte{1, 2, 3, 4})
	e.Text(nil, nil, nil)
	e.packet(Ping, nil, nil, nil)
	e.Text([]byte(strings.Repeat("x", 300)), []byte("€"), nil)
	e.Binary(nil)
	e.Binary(bytes.Repeat([]byte{7}, 70_000))
}

// filled is what fill adds, in the notation of decodeAll and readFrames.
var filled = []Packet{
	{Message, false, []byte(`2/chat,["msg","x"]`)},
	{Message, true, []byte{1, 2, 3, 4}},
	{Message, false, nil},
	{Ping, false, nil},
	{Message, false, []byte(strings.Repeat("x", 300) + "€")},
	{Message, true, nil},
	{Message, true, bytes.Repeat([]byte{7}, 70_000)},
}

func wantPackets(t *testing.T, got, want []Packet) {
	t.Helper()
	if !slices.EqualFunc(got, want, func(a, b Packet) bool {
		return a.Type == b.Type && a.Binary == b.Binary && bytes.Equal(a.Data, b.Data)
	}) {
		t.Errorf("got packets %.200v, want %.200v", got, want)
	}
}

func clonePacket(p Packet) Packet {
	p.Data = bytes.Clone(p.Data)
	return p
}

func TestEncoderPayload(t *testing.T) {
	e := newEncoder(payloadFormat)
	defer e.free()
	fill(e)
	var got []Packet
	if err := DecodePayload(e.buf, func(p Packet) bool {
		got = append(got, p)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	wantPackets(t, got, filled)
	if e.Packets() != len(filled) || e.Len() != len(e.buf) {
		t.Errorf("Packets() = %d and Len() = %d, want %d and %d", e.Packets(), e.Len(), len(filled), len(e.buf))
	}
}

func TestEncoderFrames(t *testing.T) {
	for _, tt := range []struct {
		name   string
		format format
	}{{"a server's", serverFrames}, {"a client's", clientFrames}} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEncoder(tt.format)
			defer e.free()
			fill(e)
			r := frameReader{masked: tt.format == clientFrames}
			var got []Packet
			if _, err := r.feed(e.buf, func(op ws.OpCode, payload []byte) error {
				p, err := framePacket(op, payload)
				got = append(got, clonePacket(p))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			wantPackets(t, got, filled)
			if e.Packets() != len(filled) {
				t.Errorf("Packets() = %d, want %d", e.Packets(), len(filled))
			}
		})
	}
}

// Another implementation can read the frames.
func TestEncoderFramesAreWebSocketFrames(t *testing.T) {
	e := newEncoder(clientFrames)
	defer e.free()
	var want []string
	for _, n := range []int{0, 1, 125, 126, 127, 1000, 65535, 65536, 100_000} {
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(rand.Uint32())
		}
		want = append(want, string(data))
		e.Binary(data)
	}
	in := bytes.NewReader(e.buf)
	for _, w := range want {
		f, err := ws.ReadFrame(in)
		if err != nil {
			t.Fatal(err)
		}
		if !f.Header.Fin || !f.Header.Masked || f.Header.OpCode != ws.OpBinary || string(ws.UnmaskFrame(f).Payload) != w {
			t.Errorf("a frame of %d bytes became %+v", len(w), f.Header)
		}
	}
	if in.Len() != 0 {
		t.Errorf("%d bytes are left over", in.Len())
	}
}

func TestEncoderIsEmptyAgain(t *testing.T) {
	for range 10 {
		e := newEncoder(payloadFormat)
		if e.Len() != 0 || e.Packets() != 0 {
			t.Fatalf("a new Encoder has %d bytes and %d packets", e.Len(), e.Packets())
		}
		e.Text([]byte("x"), nil, nil)
		e.free()
	}
}

func BenchmarkEncoder(b *testing.B) {
	head, stamp, tail := []byte(`2["msg","hi"`), []byte(`,"AbCd.1"`), []byte(`]`)
	attachment := make([]byte, 1<<10)
	for _, bb := range []struct {
		name   string
		format format
	}{{"payload", payloadFormat}, {"server frames", serverFrames}, {"client frames", clientFrames}} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e := newEncoder(bb.format)
				for range 8 {
					e.Text(head, stamp, tail)
				}
				e.Binary(attachment)
				b.SetBytes(int64(e.Len()))
				e.free()
			}
		})
	}
}
