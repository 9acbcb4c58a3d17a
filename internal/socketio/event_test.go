package socketio

import (
	"encoding/json"
	"testing"
)

func TestEventName(t *testing.T) {
	tests := []struct {
		name, in, want string
		ok             bool
	}{
		{"alone", `["cursor"]`, "cursor", true},
		{"with arguments", `["cursor",{"x":1},"offset"]`, "cursor", true},
		{"white space", "[ \t\r\n\"cursor\" , 1]", "cursor", true},
		{"empty", `["",1]`, "", true},
		{"not ASCII", `["größe"]`, "größe", true},
		{"escaped as Python does", `["gr\u00f6\u00dfe"]`, "größe", true},
		{"escaped surrogates", `["\ud83d\ude80"]`, "🚀", true},
		{"escaped for no reason", `["\u0063ursor"]`, "cursor", true},
		{"a quote in it", `["a\"b"]`, `a"b`, true},
		{"a backslash at its end", `["a\\"]`, `a\`, true},
		{"a bracket in it", `["a]b"]`, "a]b", true},
		{"binary", `["file",{"_placeholder":true,"num":0}]`, "file", true},
		{"a number", `[12,"x"]`, "12", true},
		{"a number alone", `[-1.5e3]`, "-1.5e3", true},
		{"no payload", ``, "", false},
		{"no array", `{"a":1}`, "", false},
		{"no argument", `[]`, "", false},
		{"no end", `["cursor`, "", false},
		{"only a bracket", `[`, "", false},
		{"ends in an escape", `["cursor\`, "", false},
		{"an unknown escape", `["\x63ursor"]`, "", false},
		{"a short escape", `["\u00"]`, "", false},
		{"null", `[null]`, "", false},
		{"true", `[true]`, "", false},
		{"an array", `[["cursor"]]`, "", false},
		{"an object", `[{"a":1}]`, "", false},
		{"single quotes", `['cursor']`, "", false},
		{"no quotes", `[cursor]`, "", false},
		{"a comment", `[/**/"cursor"]`, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := EventName([]byte(tt.in))
			if string(got) != tt.want || ok != tt.ok {
				t.Errorf("EventName(%s) = %q, %v; want %q, %v", tt.in, got, ok, tt.want, tt.ok)
			}
		})
	}
}

func TestEventNameDoesNotAllocate(t *testing.T) {
	data := []byte(`["cursor",{"x":1,"y":2}]`)
	if n := testing.AllocsPerRun(100, func() { EventName(data) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzEventName compares EventName with encoding/json: in valid JSON, the name is the first
// argument.
func FuzzEventName(f *testing.F) {
	for _, seed := range []string{
		`["cursor",1]`, `["\u0063ursor"]`, `[ 5 , "a"]`, `[["a"]]`, `[]`, `["a\\",1]`, `["\ud800"]`, `[-0]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		name, ok := EventName(data)
		var args []json.RawMessage
		if len(data) == 0 || data[0] != '[' || json.Unmarshal(data, &args) != nil || args == nil {
			return // EventName does not check what follows the name
		}
		want, wantOK := "", false
		if len(args) > 0 {
			var s string
			var n json.Number
			switch first := string(args[0]); {
			case first[0] == '"':
				// Without escapes the bytes stay unchanged, including invalid UTF-8.
				if json.Unmarshal(args[0], &s) == nil {
					want, wantOK = s, true
				}
				if raw := first[1 : len(first)-1]; ok && string(name) == raw {
					want = raw
				}
			case first != "null" && json.Unmarshal(args[0], &n) == nil:
				want, wantOK = string(n), true
			}
		}
		if string(name) != want || ok != wantOK {
			t.Errorf("EventName(%q) = %q, %v; want %q, %v", data, name, ok, want, wantOK)
		}
	})
}
