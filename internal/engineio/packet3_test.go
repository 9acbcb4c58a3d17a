package engineio

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"
)

// decode3 returns the packets of a payload as text.
func decode3(payload string) (packets []string, err error) {
	err = DecodePayload3([]byte(payload), func(p Packet) bool {
		packets = append(packets, p.String())
		return true
	})
	return packets, err
}

func TestDecodePayload3(t *testing.T) {
	// They have 14 and 15 bytes, 12 and 13 UTF-16 code units, and 12 code points each.
	const euro, grin = `42["hi","€"]`, `42["hi","😀"]`
	for _, tt := range []struct {
		name, in string
		want     []string
	}{
		{"lengths in UTF-16 code units", "12:" + euro + "13:" + grin, []string{euro, grin}},
		{"base64", `39:451-["f",{"_placeholder":true,"num":0}]6:b4AQID`, []string{`451-["f",{"_placeholder":true,"num":0}]`, "b010203"}},
		{"a single packet", "1:2", []string{"2"}},
		{"an empty payload", "0:", nil},
		{"an empty packet between others", "1:60:1:3", []string{"6", "3"}},
		{"a line feed at the end, as Go's JSON encoder writes it", "8:42[\"a\"]\n3:4hi", []string{"42[\"a\"]\n", "4hi"}},
		{"lengths in bytes, as python-engineio 3 writes them", "14:" + euro + "15:" + grin, []string{euro, grin}},
		{"lengths in code points, as socketioxide wrote them", "12:" + grin + "1:3", []string{grin, "3"}},
		{"text that is encoded as UTF-8 twice, as by socket.io 1.x", "14:" + latin1(euro) + "1:3", []string{euro, "3"}},
		{"a text in the binary form", "\x00\x01\x04\xff" + euro, []string{euro}},
		{"binary in the binary form", "\x00\x01\xff3\x01\x04\xff\x04\x01\x02\x03", []string{"3", "b010203"}},
		{"a message without data", "\x00\x01\xff4\x01\x01\xff\x04", []string{"4", "b"}},
	} {
		if got, err := decode3(tt.in); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: DecodePayload3(%q) = %q, %v; want %q", tt.name, tt.in, got, err, tt.want)
		}
	}
}

// Text that cannot be encoded twice shows that a peer encodes once, for all that follows.
func TestEncodedOnce(t *testing.T) {
	var d decoder3
	var got []string
	for _, text := range []string{latin1("4é"), "4€", latin1("4é")} {
		err := d.decode([]byte(strconv.Itoa(utf8.RuneCountInString(text))+":"+text), func(p Packet) bool {
			got = append(got, string(p.Data))
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"é", "€", latin1("é")}; !slices.Equal(got, want) {
		t.Errorf("decoded %q, want %q", got, want)
	}
}

func TestDecodePayload3Malformed(t *testing.T) {
	for _, in := range []string{
		"", "x", "4hi", ":", "1", "2:4", "9:4hi", "-1:4", "1:9", "99999999999999999999:4", "1:b", "3:b9A", "4:b4!!", "1:41", "1:4x",
		"\x00", "\x00\xff", "\x00\x0a\xff4", "\x00\x02\xff4", "\x02\x01\xff4", "\x01\x01\xff\x09", "\x00\x01\xff9", "\x00\x01\xff4\x05",
		"\x00" + strings.Repeat("\x09", 400) + "\xff",
	} {
		if got, err := decode3(in); !errors.Is(err, ErrMalformed) {
			t.Errorf("DecodePayload3(%q) = %q, %v; want ErrMalformed", in, got, err)
		}
	}
}

// latin1 returns text with each byte as a character of its own: UTF-8 that is encoded once more.
func latin1(text string) string {
	var b strings.Builder
	for i := range len(text) {
		b.WriteRune(rune(text[i]))
	}
	return b.String()
}

func TestIsPayload3(t *testing.T) {
	for in, want := range map[string]bool{
		`0{"sid":"x"}`: false, `97:0{"sid":"x"}2:40`: true, "\x00\x09\x07\xff0{": true, "": false, "97": false, "{": false, "<html>": false,
	} {
		if got := isPayload3([]byte(in)); got != want {
			t.Errorf("isPayload3(%q) = %v, want %v", in, got, want)
		}
	}
}

func TestEncoder3(t *testing.T) {
	fill := func(e *Encoder) string {
		defer e.free()
		e.Text([]byte(`2["hi","€`), []byte(`","`), []byte(`😀"]`))
		e.Binary([]byte{1, 2, 3})
		e.packet(Noop, nil, nil, nil)
		return string(e.buf)
	}
	const text = `42["hi","€","😀"]`
	if got, want := fill(newEncoder(textPayload3)), `32:42["hi","\u20ac","\ud83d\ude00"]6:b4AQID1:6`; got != want {
		t.Errorf("the text form is %q, want %q", got, want)
	}
	if got, want := fill(newEncoder(binaryPayload3)), "\x00\x02\x01\xff"+text+"\x01\x04\xff\x04\x01\x02\x03\x00\x01\xff6"; got != want {
		t.Errorf("the binary form is %q, want %q", got, want)
	}
	if got, want := fill(newEncoderFor(serverFrames, V3)), "\x81\x15"+text+"\x82\x04\x04\x01\x02\x03\x81\x016"; got != want {
		t.Errorf("frames are %q, want %q", got, want)
	}
	if e := newEncoder(serverFrames); e.binaryType != 0 {
		t.Error("an Encoder of version 4 writes frames of version 3")
	}
}

// A payload has the packets that JavaScript would find in it, and what is encoded decodes.
func FuzzDecodePayload3(f *testing.F) {
	for _, seed := range []string{
		`12:42["hi","€"]13:42["hi","😀"]`, `6:b4AQID`, "1:21:1", "0:", "8:42[\"a\"]\n", `14:42["hi","€"]`, "6:4" + latin1("é") + "1:3",
		"\x00\x01\x04\xff" + `42["hi","€"]` + "\x01\x04\xff\x04\x01\x02\x03", "\x00\x03\xff4hi", "99:4", "\x01\x09\x09\xff\x04", "3:4\xff\xfe", "2:4\U0010ffff",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		before := bytes.Clone(payload)
		var packets []Packet
		err := DecodePayload3(payload, func(p Packet) bool {
			packets = append(packets, p)
			return true
		})
		if !bytes.Equal(payload, before) {
			t.Fatal("DecodePayload3 changed its argument")
		}
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Fatalf("the error %v does not wrap ErrMalformed", err)
		}
		if want, ok := naivePackets3(string(payload)); ok && err == nil && !slices.EqualFunc(packets, want, equalPackets) {
			t.Errorf("packets %v, want %v", packets, want)
		}
		for _, f := range []format{binaryPayload3, textPayload3} { // the latter changes packets
			checkRoundTrip3(t, f, packets)
		}
	})
}

func equalPackets(a, b Packet) bool {
	return a.Type == b.Type && a.Binary == b.Binary && bytes.Equal(a.Data, b.Data)
}

// checkRoundTrip3 encodes packets and decodes them again.
func checkRoundTrip3(t *testing.T, f format, packets []Packet) {
	e := newEncoder(f)
	defer e.free()
	for _, p := range packets {
		if p.Binary {
			e.Binary(p.Data)
		} else {
			e.packet(p.Type, bytes.ToValidUTF8(p.Data, []byte("?")), nil, nil)
		}
	}
	if e.Packets() == 0 {
		return
	}
	var got []Packet
	d := decoder3{single: true}
	if err := d.decode(e.buf, func(p Packet) bool {
		got = append(got, p)
		return true
	}); err != nil {
		t.Fatalf("%q does not decode: %v", e.buf, err)
	}
	for i := range packets {
		if !packets[i].Binary {
			packets[i].Data = bytes.ToValidUTF8(packets[i].Data, []byte("?"))
		}
		if !packets[i].Binary && f == textPayload3 {
			packets[i].Data = appendEscaped(nil, packets[i].Data)
		}
	}
	if !slices.EqualFunc(got, packets, equalPackets) {
		t.Errorf("%q decodes to %v, want %v", e.buf, got, packets)
	}
}

// naivePackets3 decodes a payload in the text form as JavaScript does. ok is false for what
// JavaScript refuses, and for text that may be encoded twice.
func naivePackets3(payload string) (packets []Packet, ok bool) {
	if !utf8.ValidString(payload) {
		return nil, false
	}
	units := utf16.Encode([]rune(payload))
	for len(units) > 0 {
		n := 0
		i := 0
		for ; i < len(units) && units[i] != ':'; i++ {
			if units[i] < '0' || units[i] > '9' || n > len(payload) {
				return nil, false
			}
			n = n*10 + int(units[i]-'0')
		}
		if i == 0 || i == len(units) || n > len(units)-i-1 {
			return nil, false
		}
		text := string(utf16.Decode(units[i+1 : i+1+n]))
		units = units[i+1+n:]
		if strings.ContainsRune(text, utf8.RuneError) || !isASCII([]byte(text)) && !strings.ContainsFunc(text, func(r rune) bool { return r > 0xff }) {
			return nil, false
		}
		if text == "" {
			continue
		}
		p, err := decodeText3([]byte(text))
		if err != nil {
			return nil, false
		}
		packets = append(packets, p)
	}
	return packets, true
}
