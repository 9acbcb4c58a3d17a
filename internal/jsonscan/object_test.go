package jsonscan_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/holdfast/holdfast/internal/jsonscan"
)

func TestScan(t *testing.T) {
	type member struct{ key, whole, value string }
	tests := []struct {
		name, text string
		want       []member
	}{
		{"empty", "{}", nil},
		{"empty with space", " \t{ \r\n} ", nil},
		{"one", `{"a":1}`, []member{{"a", `"a":1`, "1"}}},
		{"all kinds of values", `{"s":"}\"]","n":-1.5e3,"t":true,"0":null,"o":{"a":[{}],"b":"{"},"l":[1,"]",[]]}`, []member{
			{"s", `"s":"}\"]"`, `"}\"]"`},
			{"n", `"n":-1.5e3`, "-1.5e3"},
			{"t", `"t":true`, "true"},
			{"0", `"0":null`, "null"},
			{"o", `"o":{"a":[{}],"b":"{"}`, `{"a":[{}],"b":"{"}`},
			{"l", `"l":[1,"]",[]]`, `[1,"]",[]]`},
		}},
		{"space everywhere", "\n{ \"a\" : 1 ,\t\"b\" : [ 1 , 2 ] } ", []member{{"a", `"a" : 1`, "1"}, {"b", `"b" : [ 1 , 2 ]`, "[ 1 , 2 ]"}}},
		{"escaped key", `{"\u0070id":"x"}`, []member{{"pid", `"\u0070id":"x"`, `"x"`}}},
		{"the same key twice", `{"a":1,"a":2}`, []member{{"a", `"a":1`, "1"}, {"a", `"a":2`, "2"}}},
		{"key beyond ASCII", `{"é":1}`, []member{{"é", `"é":1`, "1"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []member
			n, err := jsonscan.Scan([]byte(tt.text), func(m jsonscan.Member) {
				got = append(got, member{string(m.Key), tt.text[m.Start:m.End], tt.text[m.Value:m.End]})
			})
			if err != nil || n != len(tt.want) || !slices.Equal(got, tt.want) {
				t.Errorf("Scan(%q) = %d, %v with %q, want %q", tt.text, n, err, got, tt.want)
			}
		})
	}
}

func TestScanRefuses(t *testing.T) {
	for _, text := range []string{
		"", " ", "1", "null", `"a"`, "[]", "{", "}", `{"a"}`, `{"a":}`, `{"a":1,}`, `{,}`, `{"a":1 "b":2}`, `{a:1}`, `{"a":1}x`, `{"a":1}{}`,
		`{"a":"}`, `{"a":01}`, `{"\x":1}`,
	} {
		if _, err := jsonscan.Scan([]byte(text), func(jsonscan.Member) { t.Errorf("Scan(%q) found a member", text) }); err == nil {
			t.Errorf("Scan(%q) succeeded", text)
		}
	}
}

func TestString(t *testing.T) {
	const text = `{"plain":"abc","escaped":"a\u0062\n","number":1,"object":{"a":"b"}}`
	want := map[string]string{"plain": "abc", "escaped": "ab\n"}
	if _, err := jsonscan.Scan([]byte(text), func(m jsonscan.Member) {
		s, ok := m.String([]byte(text))
		if w, isString := want[string(m.Key)]; s != w || ok != isString {
			t.Errorf("%s: %q, %v, want %q, %v", m.Key, s, ok, w, isString)
		}
	}); err != nil {
		t.Error(err)
	}
}

// FuzzScan compares Scan with encoding/json.
func FuzzScan(f *testing.F) {
	for _, seed := range []string{
		"{}", `{"a":1}`, `{"a":{"b":[1,{"c":"}"}]},"d":"\"","e":null}`, ` { "x" : [ ] , "y" : -0.1e+1 } `, `{"\ud800":1}`, "{\"\xff\":1}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var want map[string]json.RawMessage
		wantErr := json.Unmarshal(text, &want)
		got := make(map[string]json.RawMessage)
		last := 0
		n, err := jsonscan.Scan(text, func(m jsonscan.Member) {
			if m.Start < last || m.Value <= m.Start || m.End <= m.Value || m.End > len(text) {
				t.Fatalf("%+v after %d, in %d bytes", m, last, len(text))
			}
			last = m.End
			got[string(m.Key)] = text[m.Value:m.End]
		})
		if (err == nil) != (wantErr == nil && want != nil) {
			t.Fatalf("Scan: %v, encoding/json: %v", err, wantErr)
		}
		if err != nil {
			return
		}
		if n < len(want) || len(got) != len(want) {
			t.Fatalf("%d members, want %d", len(got), len(want))
		}
		for k, v := range want {
			if string(got[k]) != string(v) {
				t.Fatalf("%q is %q, want %q", k, got[k], v)
			}
		}
	})
}
