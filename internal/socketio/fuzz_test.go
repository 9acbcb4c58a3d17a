package socketio

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"testing"
)

func FuzzParseHeader(f *testing.F) {
	for _, s := range []string{`0`, `0/chat,{"a":1}`, `1/chat,`, `2/chat,12["a"]`, `35[1]`, `4"no"`, `52-/chat,1["a"]`, `62-3[]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		in := slices.Clone(p)
		h, err := ParseHeader(p)
		if !bytes.Equal(p, in) {
			t.Fatalf("%q was changed to %q", in, p)
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("%q: %v is no ErrMalformed", p, err)
			}
			return
		}
		switch {
		case h.Data < 1 || h.Data > len(p):
			t.Fatalf("%q: payload at %d", p, h.Data)
		case h.Namespace[0] != '/' || bytes.IndexByte(h.Namespace, ',') >= 0:
			t.Fatalf("%q: namespace %q", p, h.Namespace)
		case h.AckID < -1 || h.Attachments < 0:
			t.Fatalf("%q: %+v", p, h)
		case !h.IsBinary() && h.Attachments > 0:
			t.Fatalf("%q: %d attachments of no binary packet", p, h.Attachments)
		}
		// Encoding the header like the reference encoder and parsing it returns the same header.
		again := append(encode(h), p[h.Data:]...)
		h2, err := ParseHeader(again)
		if err != nil {
			t.Fatalf("%q, encoded as %q: %v", p, again, err)
		}
		if !bytes.Equal(again[h2.Data:], p[h.Data:]) {
			t.Fatalf("%q, encoded as %q: payload %q", p, again, again[h2.Data:])
		}
		h.Data = h2.Data // the encoder omits leading zeros and the root namespace
		if !reflect.DeepEqual(h, h2) {
			t.Fatalf("%q, encoded as %q: %+v, want %+v", p, again, h2, h)
		}
	})
}

func FuzzSplitArray(f *testing.F) {
	for _, s := range []string{`2["a"]`, `2[]`, `2/a[b,["x",[]] `, `51-["a",{"_placeholder":true,"num":0}]`, `2/a[b,[ ]`, `2[[]]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		head, tail, ok := SplitArray(p)
		if ok && !bytes.Equal(slices.Concat(head, tail), p) {
			t.Fatalf("%q was split into %q and %q", p, head, tail)
		}
		h, err := ParseHeader(p)
		if err != nil || !h.IsEvent() {
			return
		}
		var before, after []json.RawMessage
		if json.Unmarshal(p[h.Data:], &before) != nil {
			return
		}
		if ok != (len(before) > 0) {
			t.Fatalf("%q has %d arguments; split: %v", p, len(before), ok)
		}
		if !ok {
			return
		}
		added := slices.Concat(head, []byte(`,"hf"`), tail)
		h2, err := ParseHeader(added)
		if err != nil || !reflect.DeepEqual(h, h2) {
			t.Fatalf("%q became %q: header %+v, %v; want %+v", p, added, h2, err, h)
		}
		if err := json.Unmarshal(added[h.Data:], &after); err != nil {
			t.Fatalf("%q became %q: %v", p, added, err)
		}
		if want := append(before, json.RawMessage(`"hf"`)); !reflect.DeepEqual(after, want) {
			t.Fatalf("%q became %q: arguments %q, want %q", p, added, after, want)
		}
	})
}

// property is a key of an object and the text of its value.
type property struct{ key, value string }

// properties returns those of a JSON object in order, including duplicates.
func properties(object []byte) ([]property, bool) {
	if len(bytes.TrimSpace(object)) == 0 {
		return nil, true
	}
	var m map[string]json.RawMessage
	if json.Unmarshal(object, &m) != nil || m == nil {
		return nil, false
	}
	dec := json.NewDecoder(bytes.NewReader(object))
	if _, err := dec.Token(); err != nil {
		return nil, false
	}
	var all []property
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, false
		}
		var v json.RawMessage
		if dec.Decode(&v) != nil {
			return nil, false
		}
		all = append(all, property{key.(string), string(v)})
	}
	return all, true
}

// ours reports whether a property is holdfast's.
func (p property) ours() bool {
	var s string
	return (p.key == "pid" || p.key == "offset") && p.value[0] == '"' &&
		json.Unmarshal([]byte(p.value), &s) == nil && isOurs(s)
}

func FuzzTakeRecovery(f *testing.F) {
	for _, s := range []string{
		`0`, `0/chat,`, `0{"pid":"hf1","offset":"hf2","token":"x"}`, `0{ "pid" : "hf1" , "a" : { "pid" : 1 } } `,
		`0{"p\u0069d":"hf1","pid":2}`, `0{"offset":null,"pid":"\u0068f"}`, `2["pid"]`, `0{"a":"\"pid\"","pid":"hf"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		in := slices.Clone(p)
		rest, r, err := TakeRecovery(p, isOurs, isOurs)
		if !bytes.Equal(p, in) {
			t.Fatalf("%q was changed to %q", in, p)
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("%q: %v is no ErrMalformed", p, err)
			}
			if h, err := ParseHeader(p); err == nil && json.Valid(p[h.Data:]) {
				t.Fatalf("%q was refused: %v", p, err)
			}
			return
		}
		h, err := ParseHeader(p)
		if err != nil {
			t.Fatalf("%q was accepted, but %v", p, err)
		}
		h2, err := ParseHeader(rest)
		if err != nil || !bytes.Equal(rest[:h2.Data], p[:h.Data]) {
			t.Fatalf("%q became %q: %v", p, rest, err)
		}
		before, valid := properties(p[h.Data:])
		if h.Type != Connect || !valid {
			if !bytes.Equal(rest, p) || r != (Recovery{}) {
				t.Fatalf("%q became %q, %+v", p, rest, r)
			}
			return
		}
		var want []property
		var pid, offset string
		foreign := false
		for _, b := range before {
			switch {
			case !b.ours():
				want = append(want, b)
				foreign = foreign || b.key == "offset"
			case b.key == "pid":
				pid = b.value
			default:
				offset = b.value
			}
		}
		after, ok := properties(rest[h2.Data:])
		if !ok || !slices.Equal(after, want) {
			t.Fatalf("%q became %q, with %q; want %q", p, rest, after, want)
		}
		if len(want) == len(before) && !bytes.Equal(rest, p) {
			t.Fatalf("%q became %q, though nothing was to be cut", p, rest)
		}
		if wantR := (Recovery{text(pid), text(offset), foreign}); r != wantR {
			t.Fatalf("%q: %+v, want %+v", p, r, wantR)
		}
		again, r2, err := TakeRecovery(rest, isOurs, isOurs)
		if err != nil || !bytes.Equal(again, rest) || r2 != (Recovery{ForeignOffset: foreign}) {
			t.Fatalf("%q, taken once more: %q, %+v, %v", rest, again, r2, err)
		}
	})
}

// text decodes a JSON string. It returns "" for other values.
func text(value string) string {
	var s string
	if value != "" && json.Unmarshal([]byte(value), &s) != nil {
		panic("not a string: " + value)
	}
	return s
}

func FuzzAddPID(f *testing.F) {
	for _, s := range []string{`0{"sid":"a"}`, `0/chat,{ "sid" : "a" } `, `0{"sid":"a","pid":"b"}`, `0{}`, `0`, `0{"sid":{"pid":1}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		in := slices.Clone(p)
		out, ok := addPID(p, "hf1")
		if !bytes.Equal(p, in) {
			t.Fatalf("%q was changed to %q", in, p)
		}
		if !ok {
			if !bytes.Equal(out, p) {
				t.Fatalf("%q was refused, but became %q", p, out)
			}
			return
		}
		h, err := ParseHeader(p)
		h2, err2 := ParseHeader(out)
		if err != nil || err2 != nil || !reflect.DeepEqual(h, h2) {
			t.Fatalf("%q became %q: %+v, %v; %+v, %v", p, out, h, err, h2, err2)
		}
		before, ok1 := properties(p[h.Data:])
		after, ok2 := properties(out[h.Data:])
		if want := append(before, property{"pid", `"hf1"`}); !ok1 || !ok2 || !slices.Equal(after, want) {
			t.Fatalf("%q became %q, with %q; want %q", p, out, after, want)
		}
		// A second holdfast in front of this one sees a server that recovers connections itself.
		if out2, ok := addPID(out, "hf2"); ok {
			t.Fatalf("%q has two pids", out2)
		}
	})
}
