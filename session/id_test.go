package session

import (
	"math"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPID(t *testing.T) {
	pid := newPID("")
	if !IsPID(pid) || IsOffset(pid) || newPID("") == pid {
		t.Errorf("pid %q", pid)
	}
	tests := []struct{ name, in string }{
		{"empty", ""},
		{"too short", pid[:len(pid)-1]},
		{"too long", pid + "a"},
		{"another prefix", "x" + pid[1:]},
		{"not base64url", pid[:len(pid)-1] + "="},
		{"an application's own", "user-1234"},
		{"socket.io's own", "YHcXZZ0Dd0v7Yl0EAAAB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if IsPID(tt.in) {
				t.Errorf("IsPID(%q)", tt.in)
			}
		})
	}
}

func TestParseOffset(t *testing.T) {
	const tag = "AbC-_123"
	tests := []struct {
		name, in string
		seq      uint64 // 0 if it is not an offset
	}{
		{"the first", "hf" + tag + "1", 1},
		{"base 36", "hf" + tag + "zz", 35*36 + 35},
		{"the largest", "hf" + tag + "1y2p0ij32e8e7", 1<<63 - 1},
		{"empty", "", 0},
		{"only the prefix", "hf", 0},
		{"no number", "hf" + tag, 0},
		{"zero", "hf" + tag + "0", 0},
		{"a leading zero", "hf" + tag + "01", 0},
		{"a sign", "hf" + tag + "+1", 0},
		{"negative", "hf" + tag + "-1", 0},
		{"upper case", "hf" + tag + "Z", 0},
		{"an underscore", "hf" + tag + "1_0", 0},
		{"too large", "hf" + tag + "1y2p0ij32e8e8", 0},
		{"far too large", "hf" + tag + strings.Repeat("z", 100), 0},
		{"another prefix", "xf" + tag + "1", 0},
		{"a tag that is none", "hf" + "AbC.=123" + "1", 0},
		{"socket.io's own", "MzUPkW0", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, seq, ok := parseOffset(tt.in)
			if ok != (tt.seq != 0) || seq != tt.seq || ok && got.String() != tag {
				t.Errorf("parseOffset(%q) = %q, %d, %v; want %d", tt.in, got, seq, ok, tt.seq)
			}
			if IsOffset(tt.in) != ok {
				t.Errorf("IsOffset(%q) = %v", tt.in, !ok)
			}
		})
	}
}

func FuzzParseOffset(f *testing.F) {
	f.Add("hfAbC-_1231")
	f.Add("hfAbC-_1230z")
	f.Add("hf")
	f.Add(newPID(""))
	f.Fuzz(func(t *testing.T, s string) {
		tag, seq, ok := parseOffset(s)
		if !ok {
			return
		}
		if seq == 0 || len(tag.String()) != tagLen {
			t.Fatalf("%q: tag %q, number %d", s, tag, seq)
		}
		if again := string(Offset{tag, seq}.AppendTo(nil)); again != s {
			t.Fatalf("%q is written %q", s, again)
		}
	})
}

func FuzzIsPID(f *testing.F) {
	f.Add(newPID(""))
	f.Add("hf")
	f.Add("hfAbC-_1231")
	f.Fuzz(func(t *testing.T, s string) {
		if !IsPID(s) {
			return
		}
		// JSON and headers contain it without escaping.
		if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			t.Fatalf("%q needs escaping", s)
		}
	})
}

func FuzzOffsetRoundTrip(f *testing.F) {
	f.Add(uint64(1))
	f.Add(uint64(1<<63 - 1))
	f.Fuzz(func(t *testing.T, n uint64) {
		tag, want := newTag(), n>>1|1
		s := string(Offset{tag, want}.AppendTo(nil))
		if got, seq, ok := parseOffset(s); !ok || got != tag || seq != want {
			t.Fatalf("%q = %q, %d, %v; want %q, %d", s, got, seq, ok, tag, want)
		}
	})
}

func TestAppendBase36(t *testing.T) {
	for _, n := range []uint64{0, 1, 9, 10, 35, 36, 1295, 1296, 1 << 32, math.MaxUint64} {
		if got, want := string(appendBase36([]byte("x"), n)), "x"+strconv.FormatUint(n, 36); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64().Draw(t, "n")
		if got, want := string(appendBase36(nil, n)), strconv.FormatUint(n, 36); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	})
}
