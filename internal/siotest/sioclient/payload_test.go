package sioclient

import (
	"encoding/json"
	"testing"
	"unicode/utf8"
)

func TestConnectPayload(t *testing.T) {
	tests := []struct {
		name, pid, offset string
		auth              any
		want              string
	}{
		{"nothing", "", "", nil, ""},
		{"auth only", "", "", map[string]int{"a": 1}, `{"a":1}`},
		{"auth without keys", "", "", struct{}{}, `{}`},
		{"pid only", "p", "", nil, `{"pid":"p"}`},
		{"offset without pid", "", "o", nil, ""},
		{"both", "p", "o", json.RawMessage(`{"z":1,"a":{"b":[2]}}`), `{"pid":"p","offset":"o","z":1,"a":{"b":[2]}}`},
		{"own keys of that name win", "p", "o", json.RawMessage(`{"a":1,"pid":7,"offset":null}`), `{"pid":7,"offset":null,"a":1}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ConnectPayload(tt.pid, tt.offset, tt.auth)
			if err != nil || string(got) != tt.want {
				t.Errorf("ConnectPayload(%q, %q, %v) = %s, %v; want %s", tt.pid, tt.offset, tt.auth, got, err, tt.want)
			}
		})
	}
	for _, bad := range []any{1, []int{1}, func() {}} {
		if got, err := ConnectPayload("p", "o", bad); err == nil {
			t.Errorf("auth %T: %s, want an error", bad, got)
		}
	}
}

func FuzzLastString(f *testing.F) {
	for _, s := range []string{
		`["a"]`, `["a","o"]`, `["a",1]`, `[]`, `["a","\"\\"]`, ` ["a" , "\u00e9\\\"" ] `, `["a",["b"]]`, `["",""]`, `[`, `]`, `"]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, ok := LastString(data)
		var elements []json.RawMessage
		if json.Unmarshal(data, &elements) != nil || !utf8.Valid(data) {
			return // any answer will do, as long as it does not panic
		}
		var want string
		isString := false
		if n := len(elements); n > 0 && elements[n-1][0] == '"' {
			isString = json.Unmarshal(elements[n-1], &want) == nil
		}
		if ok != isString || ok && got != want {
			t.Errorf("LastString(%s) = %q, %v; want %q, %v", data, got, ok, want, isString)
		}
	})
}
