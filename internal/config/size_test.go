package config

import (
	"fmt"
	"testing"

	"gopkg.in/yaml.v3"
)

func TestParseSize(t *testing.T) {
	tests := []struct {
		name, in string
		want     Size
		ok       bool
	}{
		{"plain bytes", "4096", 4096, true},
		{"zero", "0", 0, true},
		{"bytes with unit", "17B", 17, true},
		{"binary", "64KiB", 65536, true},
		{"binary mega", "1MiB", 1 << 20, true},
		{"decimal", "16MB", 16e6, true},
		{"giga", "2GiB", 2 << 30, true},
		{"lower case", "64kib", 65536, true},
		{"as engine.io's 1 MB", "1MB", 1000000, true},
		{"blank before the unit", "64 KiB", 65536, true},
		{"the largest", "9223372036854775807", 1<<63 - 1, true},
		{"one more", "9223372036854775808", 0, false},
		{"overflow by unit", "9223372036854775807KB", 0, false},
		{"ambiguous unit", "64K", 0, false},
		{"ambiguous unit M", "64M", 0, false},
		{"fraction", "1.5MiB", 0, false},
		{"negative", "-1", 0, false},
		{"plus", "+1", 0, false},
		{"hexadecimal", "0x1000", 0, false},
		{"underscores", "1_000", 0, false},
		{"unit only", "KiB", 0, false},
		{"blank at the end", "64 ", 0, false},
		{"empty", "", 0, false},
		{"words", "a lot", 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseSize(tt.in)
			if got != tt.want || (err == nil) != tt.ok {
				t.Errorf("ParseSize(%q) = %d, %v; want %d, ok %v", tt.in, got, err, tt.want, tt.ok)
			}
		})
	}
}

func TestSizeString(t *testing.T) {
	tests := []struct {
		in   Size
		want string
	}{
		{0, "0"},
		{1, "1"},
		{4096, "4KiB"},
		{4097, "4097"},
		{16 * MiB, "16MiB"},
		{1 * MB, "1MB"},
		{1500 * KB, "1500KB"},
		{3 * GiB, "3GiB"},
		{-1, "-1"},
	}
	for _, tt := range tests {
		if got := tt.in.String(); got != tt.want {
			t.Errorf("Size(%d) = %q, want %q", int64(tt.in), got, tt.want)
		}
	}
}

func TestSizeYAML(t *testing.T) {
	var in struct{ A, B Size }
	if err := yaml.Unmarshal([]byte("a: 64KiB\nb: 4097\n"), &in); err != nil {
		t.Fatal(err)
	}
	if in.A != 64*KiB || in.B != 4097 {
		t.Errorf("got %+v", in)
	}
	out, err := yaml.Marshal(in)
	if err != nil || string(out) != "a: 64KiB\nb: \"4097\"\n" {
		t.Errorf("got %q, %v", out, err)
	}
	if err := yaml.Unmarshal([]byte("a: much\n"), &in); err == nil {
		t.Error("no error for a size that is none")
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"0", "64KiB", "16MB", "9223372036854775807", "1.5MiB", "-1", "64 kb"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseSize(s)
		if err != nil {
			return
		}
		if n < 0 {
			t.Fatalf("ParseSize(%q) = %d", s, n)
		}
		if again, err := ParseSize(n.String()); err != nil || again != n {
			t.Fatalf("ParseSize(%q) = %d, whose text %v gives %d, %v", s, n, n, again, err)
		}
	})
}

func ExampleParseSize() {
	n, _ := ParseSize("64KiB")
	fmt.Println(int64(n), n)
	// Output: 65536 64KiB
}
