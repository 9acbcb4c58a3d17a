package socketio

import (
	"bytes"
	"testing"
)

func TestAuthValues(t *testing.T) {
	tests := []struct {
		name, packet string
		keys         []string
		want         []string // "absent" for nil
	}{
		{"text", `0{"token":"abc"}`, []string{"token"}, []string{`"abc"`}},
		{"in the order of the keys", `0/admin,{"b":2,"a":1}`, []string{"a", "b"}, []string{"1", "2"}},
		{"absent", `0{"a":1}`, []string{"b"}, []string{"absent"}},
		{"null is a value", `0{"a":null}`, []string{"a"}, []string{"null"}},
		{"empty is a value", `0{"a":""}`, []string{"a"}, []string{`""`}},
		{"nested", `0{"user": {"name":"x", "id": [1, 2.50, {"z":1,"y":2}]}}`, []string{"user"}, []string{`{"id":[1,2.50,{"y":2,"z":1}],"name":"x"}`}},
		{"large numbers", `0{"id":12345678901234567890}`, []string{"id"}, []string{`12345678901234567890`}},
		{"escapes", `0{"a":"\u0061\/b"}`, []string{"a"}, []string{`"a/b"`}},
		{"escaped key", `0{"\u0061":1}`, []string{"a"}, []string{"1"}},
		{"the last of two", `0{"a":1,"a":2}`, []string{"a"}, []string{"2"}},
		{"of the whole payload only", `0{"x":{"a":1}}`, []string{"a"}, []string{"absent"}},
		{"no payload", `0`, []string{"a"}, []string{"absent"}},
		{"no object", `0["a"]`, []string{"a"}, []string{"absent"}},
		{"broken", `0{"a":1`, []string{"a"}, []string{"absent"}},
		{"no CONNECT", `2["a"]`, []string{"a"}, []string{"absent"}},
		{"no packet", ``, []string{"a"}, []string{"absent"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := AuthValues([]byte(tt.packet), tt.keys)
			for i, want := range tt.want {
				if want == "absent" {
					if got[i] != nil {
						t.Errorf("AuthValues(%q)[%q] = %q, want none", tt.packet, tt.keys[i], got[i])
					}
					continue
				}
				if !bytes.Equal(got[i], []byte(want)) {
					t.Errorf("AuthValues(%q)[%q] = %q, want %q", tt.packet, tt.keys[i], got[i], want)
				}
			}
		})
	}
}
