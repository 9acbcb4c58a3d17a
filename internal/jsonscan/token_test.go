package jsonscan_test

import (
	"testing"

	"github.com/holdfast/holdfast/internal/jsonscan"
)

func TestStringEnd(t *testing.T) {
	tests := []struct {
		name, in string
		end      int
		escaped  bool
	}{
		{"empty", `"",`, 2, false},
		{"plain", `"ab" `, 4, false},
		{"escaped quote", `"a\"b"]`, 6, true},
		{"escaped backslash", `"a\\"b"`, 5, true},
		{"unterminated", `"ab`, -1, false},
		{"ends with a backslash", `"ab\`, -1, true},
		{"ends with an escaped quote", `"ab\"`, -1, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if end, escaped := jsonscan.StringEnd([]byte(tt.in), 0); end != tt.end || escaped != tt.escaped {
				t.Errorf("StringEnd(%q) = %d, %v; want %d, %v", tt.in, end, escaped, tt.end, tt.escaped)
			}
		})
	}
}

func TestScalarEnd(t *testing.T) {
	for in, want := range map[string]int{`1e9,2`: 3, `null]`: 4, `-0.5}`: 4, "7\n": 1, `true`: 4, ``: 0} {
		if end := jsonscan.ScalarEnd([]byte(in), 0); end != want {
			t.Errorf("ScalarEnd(%q) = %d, want %d", in, end, want)
		}
	}
}
