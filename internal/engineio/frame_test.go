package engineio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

// rawFrame is one frame, valid or not. lengthBytes is 0, 2 or 8.
type rawFrame struct {
	first       byte // FIN, RSV1-3, opcode
	masked      bool
	payload     string
	lengthBytes int
	length      uint64 // if not the payload's
}

const fin = 0x80

func (f rawFrame) bytes() []byte {
	mask := byte(0)
	if f.masked {
		mask = 0x80
	}
	n := f.length
	if n == 0 {
		n = uint64(len(f.payload))
	}
	b := []byte{f.first}
	switch {
	case f.lengthBytes == 8 || n >= 1<<16:
		b = binary.BigEndian.AppendUint64(append(b, mask|127), n)
	case f.lengthBytes == 2 || n > 125:
		b = binary.BigEndian.AppendUint16(append(b, mask|126), uint16(n))
	default:
		b = append(b, mask|byte(n))
	}
	if !f.masked {
		return append(b, f.payload...)
	}
	key := [4]byte{1, 2, 3, 4}
	b = append(b, key[:]...)
	start := len(b)
	b = append(b, f.payload...)
	ws.Cipher(b[start:], key, 0)
	return b
}

func wire(frames ...rawFrame) []byte {
	var b []byte
	for _, f := range frames {
		b = append(b, f.bytes()...)
	}
	return b
}

// fromClient returns a frame as a client sends it.
func fromClient(op ws.OpCode, payload string) rawFrame {
	return rawFrame{first: fin | byte(op), masked: true, payload: payload}
}

// fragment returns a part of a client's message; op is OpContinuation for all except the first.
func fragment(op ws.OpCode, last bool, payload string) rawFrame {
	first := byte(op)
	if last {
		first |= fin
	}
	return rawFrame{first: first, masked: true, payload: payload}
}

// readFrames feeds pieces to a reader and returns its messages, as text.
func readFrames(t testing.TB, r *frameReader, pieces ...[]byte) ([]string, error) {
	t.Helper()
	var got []string
	for _, p := range pieces {
		_, err := r.feed(bytes.Clone(p), func(op ws.OpCode, payload []byte) error {
			got = append(got, fmt.Sprintf("%x:%s", byte(op), payload))
			return nil
		})
		if r.maxBytes > 0 {
			if n := int64(len(r.partial)); n > r.maxBytes+maxHeaderBytes+ws.MaxControlFramePayloadSize {
				t.Fatalf("%d bytes are kept of a frame, with a limit of %d", n, r.maxBytes)
			}
			if n := int64(len(r.message)); n > r.maxBytes {
				t.Fatalf("%d bytes are kept of a message, with a limit of %d", n, r.maxBytes)
			}
		}
		if err != nil {
			return got, err
		}
	}
	return got, nil
}

func TestFrameReader(t *testing.T) {
	long, longer := strings.Repeat("x", 300), strings.Repeat("y", 70_000)
	tests := []struct {
		name   string
		in     []byte
		reader frameReader
		want   []string
		code   ws.StatusCode // of the error, or 0
	}{
		{"text", wire(fromClient(ws.OpText, "4hi")), frameReader{masked: true}, []string{"1:4hi"}, 0},
		{"binary", wire(fromClient(ws.OpBinary, "\x00\xff")), frameReader{masked: true}, []string{"2:\x00\xff"}, 0},
		{"from a server", wire(rawFrame{first: fin | 1, payload: "4hi"}), frameReader{}, []string{"1:4hi"}, 0},
		{"empty", wire(fromClient(ws.OpText, "")), frameReader{masked: true}, []string{"1:"}, 0},
		{"16-bit length", wire(fromClient(ws.OpText, long)), frameReader{masked: true}, []string{"1:" + long}, 0},
		{"64-bit length", wire(fromClient(ws.OpText, longer)), frameReader{masked: true}, []string{"1:" + longer}, 0},
		{
			"longer forms of short lengths",
			wire(
				rawFrame{first: fin | 1, masked: true, payload: "a", lengthBytes: 2},
				rawFrame{first: fin | 1, masked: true, payload: "b", lengthBytes: 8},
			),
			frameReader{masked: true, maxBytes: 10},
			[]string{"1:a", "1:b"},
			0,
		},
		{
			"several", wire(fromClient(ws.OpText, "4a"), fromClient(ws.OpBinary, "b"), fromClient(ws.OpText, "4c")),
			frameReader{masked: true},
			[]string{"1:4a", "2:b", "1:4c"},
			0,
		},
		{
			"fragments", wire(fragment(ws.OpText, false, "4h"), fragment(0, false, ""), fragment(0, true, "i"), fromClient(ws.OpText, "4j")),
			frameReader{masked: true},
			[]string{"1:4hi", "1:4j"},
			0,
		},
		{
			"control frames between fragments",
			wire(fragment(ws.OpBinary, false, "a"), fromClient(ws.OpPing, "p"), fragment(0, false, "b"), fromClient(ws.OpPong, ""), fragment(0, true, "c")),
			frameReader{masked: true},
			[]string{"9:p", "a:", "2:abc"},
			0,
		},
		{"character cut by fragments", wire(fragment(ws.OpText, false, "4\xe2\x82"), fragment(0, true, "\xac")), frameReader{masked: true}, []string{"1:4€"}, 0},
		{"close", wire(fromClient(ws.OpClose, "\x03\xe8bye")), frameReader{masked: true}, []string{"8:\x03\xe8bye"}, 0},
		{"largest control frame", wire(fromClient(ws.OpPing, long[:125])), frameReader{masked: true, maxBytes: 3}, []string{"9:" + long[:125]}, 0},
		{"as large as allowed", wire(fromClient(ws.OpText, "abc")), frameReader{masked: true, maxBytes: 3}, []string{"1:abc"}, 0},
		{
			"fragments as large as allowed", wire(fragment(ws.OpText, false, "ab"), fragment(0, true, "c")),
			frameReader{masked: true, maxBytes: 3},
			[]string{"1:abc"},
			0,
		},

		{"not masked", wire(rawFrame{first: fin | 1, payload: "4hi"}), frameReader{masked: true}, nil, 1002},
		{"masked by a server", wire(fromClient(ws.OpText, "4hi")), frameReader{}, nil, 1002},
		{"reserved bit", wire(fromClient(ws.OpText, "ok"), rawFrame{first: fin | 0x40 | 1, masked: true}), frameReader{masked: true}, []string{"1:ok"}, 1002},
		{"reserved data opcode", wire(rawFrame{first: fin | 3, masked: true}), frameReader{masked: true}, nil, 1002},
		{"reserved control opcode", wire(rawFrame{first: fin | 0xb, masked: true}), frameReader{masked: true}, nil, 1002},
		{"fragmented control frame", wire(rawFrame{first: 9, masked: true}), frameReader{masked: true}, nil, 1002},
		{"oversized control frame", wire(fromClient(ws.OpPing, long[:126])), frameReader{masked: true}, nil, 1002},
		{"continuation of nothing", wire(fragment(0, true, "x")), frameReader{masked: true}, nil, 1002},
		{"message inside a message", wire(fragment(ws.OpText, false, "x"), fromClient(ws.OpText, "y")), frameReader{masked: true}, nil, 1002},
		{"highest bit of the length", wire(rawFrame{first: fin | 1, masked: true, lengthBytes: 8, length: 1 << 63}), frameReader{masked: true}, nil, 1002},
		{"bad UTF-8", wire(fromClient(ws.OpText, "4\xff")), frameReader{masked: true}, nil, 1007},
		{"bad UTF-8 in fragments", wire(fragment(ws.OpText, false, "4\xe2"), fragment(0, true, "x")), frameReader{masked: true}, nil, 1007},
		{"bad UTF-8 from a server", wire(rawFrame{first: fin | 1, payload: "4\xff"}), frameReader{}, []string{"1:4\xff"}, 0},
		{"over the limit", wire(fromClient(ws.OpText, "abcd")), frameReader{masked: true, maxBytes: 3}, nil, 1009},
		{"fragments over the limit", wire(fragment(ws.OpText, false, "ab"), fragment(0, true, "cd")), frameReader{masked: true, maxBytes: 3}, nil, 1009},
		{"over the limit, before it has come", wire(rawFrame{first: fin | 2, masked: true, lengthBytes: 8, length: 1 << 40}), frameReader{masked: true, maxBytes: 3}, nil, 1009},
		{"longer than any number", wire(rawFrame{first: fin | 2, lengthBytes: 8, length: 1<<63 - 1, payload: "x"}), frameReader{}, nil, 1009},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			whole := tt.reader
			wantFrames(t, "in one piece", &whole, tt.want, tt.code, tt.in)
			single := tt.reader
			wantFrames(t, "byte by byte", &single, tt.want, tt.code, slices.Collect(slices.Chunk(tt.in, 1))...)
			for range 20 {
				split := tt.reader
				wantFrames(t, "in pieces", &split, tt.want, tt.code, splitAtRandom(tt.in)...)
			}
		})
	}
}

func wantFrames(t *testing.T, how string, r *frameReader, want []string, code ws.StatusCode, pieces ...[]byte) {
	t.Helper()
	got, err := readFrames(t, r, pieces...)
	var gotCode ws.StatusCode
	if fe, ok := errors.AsType[*frameError](err); ok {
		gotCode = fe.code
	}
	if !slices.Equal(got, want) || gotCode != code || code == 0 && err != nil {
		t.Errorf("%s: got %.100q, %v; want %.100q, code %d", how, got, err, want, code)
	}
	if err == nil && (len(r.partial) > 0 || len(r.message) > 0) {
		t.Errorf("%s: bytes are left over", how)
	}
}

func splitAtRandom(p []byte) [][]byte {
	var pieces [][]byte
	for len(p) > 0 {
		n := 1 + rand.IntN(len(p))
		pieces = append(pieces, p[:n])
		p = p[n:]
	}
	return pieces
}

func TestFrameReaderStopsWhenToldTo(t *testing.T) {
	first := wire(fromServer(ws.OpText, "a"))
	in := wire(fromServer(ws.OpText, "a"), fromServer(ws.OpText, "b"), fromServer(ws.OpText, "c"))
	for cut := range len(first) + 1 {
		r := frameReader{}
		calls := 0
		stop := func(ws.OpCode, []byte) error {
			calls++
			return errStop
		}
		p := bytes.Clone(in)
		if cut < len(first) {
			if rest, err := r.feed(p[:cut], stop); err != nil || len(rest) > 0 {
				t.Fatalf("feed of %d bytes = %q, %v", cut, rest, err)
			}
			p = p[cut:]
		}
		rest, err := r.feed(p, stop)
		if !errors.Is(err, errStop) || calls != 1 || !bytes.Equal(rest, in[len(first):]) {
			t.Errorf("cut at %d: %d calls, rest %q and %v; want 1, %q and errStop", cut, calls, rest, err, in[len(first):])
		}
	}
}

func TestFrameReaderBoundsFragments(t *testing.T) {
	r := frameReader{masked: true, maxBytes: 10}
	in := wire(fragment(ws.OpText, false, ""))
	empty := wire(fragment(0, false, ""))
	var err error
	fragments := 1
	for ; err == nil && fragments < 10*maxFragments; fragments++ {
		_, err = readFrames(t, &r, in)
		in = empty
	}
	if fe, ok := errors.AsType[*frameError](err); !ok || fe.code != ws.StatusPolicyViolation {
		t.Errorf("after %d empty fragments: %v, want code 1008", fragments, err)
	}
}

// An idle connection holds no buffer.
func TestFrameReaderKeepsNothing(t *testing.T) {
	r := frameReader{masked: true}
	in := wire(fragment(ws.OpText, false, "4he"), fragment(0, true, "llo"))
	if _, err := readFrames(t, &r, in[:3], in[3:10], in[10:]); err != nil {
		t.Fatal(err)
	}
	if r.partial != nil || r.message != nil {
		t.Errorf("kept buffers of %d and %d bytes", cap(r.partial), cap(r.message))
	}
}

// Any split of the bytes gives the same messages and the same error as one piece.
func FuzzFrameReader(f *testing.F) {
	long := strings.Repeat("z", 300)
	for _, frames := range [][]rawFrame{
		{fromClient(ws.OpText, "4hello"), fromClient(ws.OpBinary, "\x01\x02"), fromClient(ws.OpPing, "p")},
		{fragment(ws.OpText, false, "4h"), fromClient(ws.OpClose, "\x03\xe9"), fragment(0, true, "i")},
		{fromClient(ws.OpText, long), {first: fin | 1, payload: "4hi"}},
		{{first: fin | 1, lengthBytes: 8, payload: "4hi"}, {first: fin | 2, lengthBytes: 8, length: 1 << 63}},
		{{first: fin | 2, lengthBytes: 8, length: 1<<63 - 1}},
		{fromClient(ws.OpText, "4\xff")},
		{{first: fin | 0x10 | 1, masked: true}, {first: 9, masked: true}},
	} {
		f.Add(wire(frames...), true, int64(0), []byte{1, 2, 3})
		f.Add(wire(frames...), false, int64(100), []byte{7})
		f.Add(wire(frames...), true, int64(3), []byte{0})
	}
	f.Fuzz(func(t *testing.T, in []byte, masked bool, maxBytes int64, sizes []byte) {
		maxBytes = max(maxBytes, 0)
		whole := frameReader{masked: masked, maxBytes: maxBytes}
		want, wantErr := readFrames(t, &whole, in)
		var pieces [][]byte
		for i := 0; len(in) > 0; i++ {
			n := 1
			if len(sizes) > 0 {
				n += int(sizes[i%len(sizes)])
			}
			n = min(n, len(in))
			pieces = append(pieces, in[:n])
			in = in[n:]
		}
		split := frameReader{masked: masked, maxBytes: maxBytes}
		got, gotErr := readFrames(t, &split, pieces...)
		if !slices.Equal(got, want) || fmt.Sprint(gotErr) != fmt.Sprint(wantErr) {
			t.Fatalf("in %d pieces: %q, %v; in one: %q, %v", len(pieces), got, gotErr, want, wantErr)
		}
		var fe *frameError
		if wantErr != nil && !errors.As(wantErr, &fe) {
			t.Fatalf("error %v is not a frameError", wantErr)
		}
		if wantErr == nil && !bytes.Equal(whole.partial, split.partial) {
			t.Fatal("different bytes are kept for later")
		}
	})
}

func TestCloseCode(t *testing.T) {
	payload := func(code uint16, reason string) string {
		return string(binary.BigEndian.AppendUint16(nil, code)) + reason
	}
	tests := []struct {
		name, in string
		code     ws.StatusCode
		answer   ws.StatusCode // 0 if it is valid
	}{
		{"empty", "", 1005, 0},
		{"half a code", "\x03", 0, 1002},
		{"normal", payload(1000, ""), 1000, 0},
		{"going away", payload(1001, "bye"), 1001, 0},
		{"reserved", payload(1004, ""), 1004, 1002},
		{"not to be sent: no status", payload(1005, ""), 1005, 1002},
		{"not to be sent: abnormal", payload(1006, ""), 1006, 1002},
		{"internal error", payload(1011, ""), 1011, 0},
		{"service restart", payload(1012, ""), 1012, 0},
		{"not to be sent: TLS", payload(1015, ""), 1015, 1002},
		{"too small", payload(999, ""), 999, 1002},
		{"unassigned", payload(2999, ""), 2999, 1002},
		{"library's", payload(3000, ""), 3000, 0},
		{"application's", payload(4999, "x"), 4999, 0},
		{"too large", payload(5000, ""), 5000, 1002},
		{"reason beyond ASCII", payload(1000, "à bientôt"), 1000, 0},
		{"reason not UTF-8", payload(1000, "\xff"), 1000, 1007},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, err := closeCode([]byte(tt.in))
			var answer ws.StatusCode
			if fe, ok := errors.AsType[*frameError](err); ok {
				answer = fe.code
			}
			if code != tt.code || answer != tt.answer || (err != nil) != (answer != 0) {
				t.Errorf("closeCode(%q) = %d, %v; want %d, answered by %d", tt.in, code, err, tt.code, tt.answer)
			}
		})
	}
}

func FuzzCloseCode(f *testing.F) {
	for _, seed := range []string{"", "\x03", "\x03\xe8", "\x03\xe9bye", "\x03\xed", "\x03\xe8\xff", "\x13\x88"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		code, err := closeCode(payload)
		if err != nil || code == ws.StatusNoStatusRcvd {
			return
		}
		// An echo of the code is valid too.
		if again, err := closeCode(ws.NewCloseFrameBody(code, "")); err != nil || again != code {
			t.Fatalf("%d becomes %d, %v", code, again, err)
		}
	})
}

func BenchmarkFrameReader(b *testing.B) {
	for _, bb := range []struct {
		name string
		size int
	}{{"16 bytes", 16}, {"1 KiB", 1 << 10}, {"64 KiB", 64 << 10}} {
		b.Run(bb.name, func(b *testing.B) {
			in := fromClient(ws.OpText, strings.Repeat("x", bb.size)).bytes()
			p := make([]byte, len(in))
			r := frameReader{masked: true, maxBytes: 1 << 20}
			fn := func(ws.OpCode, []byte) error { return nil }
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				copy(p, in) // unmasking changes it
				if _, err := r.feed(p, fn); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// After a panic in the middle of a batch it is unknown where the next frame begins. A payload must
// not be parsed as a frame.
func TestFrameReaderReadsNothingAfterAPanic(t *testing.T) {
	var r frameReader
	inner := newEncoder(serverFrames)
	inner.Text([]byte("forged"), nil, nil)
	e := newEncoder(serverFrames)
	e.Text([]byte("boom"), nil, nil)
	first := e.Len()
	e.Text(inner.buf, nil, nil)
	split := first + 3 // after the second frame's header and the packet's type
	func() {
		defer func() { _ = recover() }()
		_, _ = r.feed(e.buf[:split], func(ws.OpCode, []byte) error { panic("boom") })
	}()
	_, err := r.feed(e.buf[split:], func(_ ws.OpCode, payload []byte) error {
		t.Errorf("read %q", payload)
		return nil
	})
	if !errors.Is(err, errStop) {
		t.Errorf("got %v", err)
	}
}
