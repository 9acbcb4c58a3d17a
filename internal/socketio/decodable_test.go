package socketio

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCheckDecodable(t *testing.T) {
	tests := []struct {
		name, in string
		want     Decodability
	}{
		{"event", `2["a",1]`, Decodable},
		{"event with a number for a name", `2[5]`, Decodable},
		{"event with an escaped name", `2["\u0061"]`, Decodable},
		{"event that asks for an acknowledgement", `2/chat,7["a"]`, Decodable},
		{"acknowledgement", `37[]`, Decodable},
		{"disconnect", `1/chat,`, Decodable},
		{"placeholder", `51-["a",{"_placeholder":true,"num":0}]`, Decodable},
		{"text like a placeholder", `51-["a",{"_placeholder":1,"num":5}]`, Decodable},
		{"ten attachments", `510-["a"]`, Decodable},

		{"eleven attachments", `511-["a"]`, TooManyAttachments},
		{"forty attachments", `540-["a"]`, TooManyAttachments | FarTooManyAttachments},
		{"eleven attachments, one of them misplaced, and a reserved name", `511-["connect",{"_placeholder":true}]`, TooManyAttachments | MisplacedAttachment | BadEventName},
		{"eleven attachments and no arguments", `511-[]`, Undecodable},
		{"no attachments", `50-["a"]`, MisplacedAttachment},
		{"placeholder beyond the attachments", `51-["a",[{"x":{"_placeholder":true,"num":1}}]]`, MisplacedAttachment},
		{"placeholder without a number", `51-["a",{"_placeholder":true}]`, MisplacedAttachment},
		{"reserved name", `2["disconnect"]`, BadEventName},
		{"reserved name, escaped", `2["\u0064isconnect"]`, BadEventName},
		{"no name", `2[null,null]`, BadEventName},
		{"placeholder beyond the attachments, beside a number that Go cannot hold", `51-["a",1e999,{"_placeholder":true,"num":1}]`, MisplacedAttachment},
		{"placeholder with a number that Go cannot hold", `51-["a",{"_placeholder":true,"num":1e999}]`, MisplacedAttachment},
		{"placeholder with an escaped key", `51-["a",{"\u005fplaceholder":true,"num":1}]`, MisplacedAttachment},
		{"placeholder between two attachments", `52-["a",{"_placeholder":true,"num":0.5}]`, Decodable},
		{"attachment beside deep nesting", `51-["a",` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `]`, OddText},
		{"deep nesting without an attachment", `2["a",` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `]`, Decodable},
		{"nesting deeper than Go goes", `2["a",` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `]`, OddText},
		{"invalid UTF-8", "2[\"a\xff\"]", OddText},
		{"unknown to the header's parser", `9abc`, OddText},

		{"NaN", `2["n",NaN]`, Undecodable},
		{"NaN in an acknowledgement", `37[NaN]`, Undecodable},
		{"no end", `2["a"`, Undecodable},
		{"no arguments", `2[ ]`, Undecodable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := CheckDecodable([]byte(tt.in)); got != tt.want {
				t.Errorf("CheckDecodable(%q) = %v, want %v", tt.in, got, tt.want)
			}
		})
	}
}

func TestLooksOdd(t *testing.T) {
	for in, want := range map[string]bool{
		`2["a",1]`: false, `2/chat,7["a","Nan"]`: false, `37[1]`: false, `1/chat,`: false, `2[5]`: false, `0{"sid":"x"}`: false,
		`2["n",NaN]`: true, `2["n",{"x":-Infinity}]`: true, `37[NaN]`: true, `2["n","a NaN in a text"]`: true,
		`2["disconnect"]`: true, `2/chat,7[ "newListener"]`: true, `2["\u0064isconnect"]`: true, `2[null,null]`: true, `2[]`: true, `9abc`: true,
	} {
		if got := LooksOdd([]byte(in)); got != want {
			t.Errorf("LooksOdd(%q) = %v, want %v", in, got, want)
		}
	}
}

// testdata/parser-verdicts.jsonl has the verdicts of socket.io-parser 4.2.1 to 4.2.7 on random
// packets: a 1 for each version that decodes the packet, its attachments, and a text packet behind
// them.
func TestCheckDecodableAgreesWithTheParser(t *testing.T) {
	lines, err := os.ReadFile("testdata/parser-verdicts.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(lines) {
		var row struct{ Packet, Decodes string }
		if err := json.Unmarshal(line, &row); err != nil {
			t.Fatal(err)
		}
		all, none := !strings.Contains(row.Decodes, "0"), !strings.Contains(row.Decodes, "1")
		switch got := CheckDecodable([]byte(row.Packet)); {
		case got == Decodable && !all, got == Undecodable && !none, got != Decodable && all:
			t.Errorf("CheckDecodable(%q) = %v, and the versions say %s", row.Packet, got, row.Decodes)
		}
	}
}

// jsRules are what differs between versions of socket.io-parser.
type jsRules struct {
	mostAttachments int
	reservedNames   bool // are refused
	anyName         bool // an event's name may be anything
}

var (
	laxest    = jsRules{mostAttachments: 1 << 30, anyName: true}
	strictest = jsRules{mostAttachments: 10, reservedNames: true}
)

// decodes is a model of socket.io-parser 4.2, for packets whose header is well-formed.
func (r jsRules) decodes(h *Header, data []byte) bool {
	var args []any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if !json.Valid(data) || d.Decode(&args) != nil {
		return false
	}
	if h.IsBinary() && (h.Attachments < 1 || h.Attachments > r.mostAttachments) {
		return false
	}
	if h.IsEvent() && !r.takesName(args) {
		return false
	}
	return !h.IsBinary() || placeholdersExist(args, h.Attachments)
}

func (r jsRules) takesName(args []any) bool {
	if r.anyName {
		return len(args) > 0
	}
	if len(args) == 0 {
		return false
	}
	name, isString := args[0].(string)
	_, isNumber := args[0].(json.Number)
	return isNumber || isString && (!r.reservedNames || !slices.Contains(reservedEvents, name))
}

func placeholdersExist(v any, attachments int) bool {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if !placeholdersExist(e, attachments) {
				return false
			}
		}
	case map[string]any:
		if v["_placeholder"] == true {
			n, ok := v["num"].(json.Number)
			f, err := n.Float64()
			return ok && err == nil && f >= 0 && f < float64(attachments)
		}
		for _, e := range v {
			if !placeholdersExist(e, attachments) {
				return false
			}
		}
	}
	return true
}

func FuzzCheckDecodable(f *testing.F) {
	for _, s := range []string{
		`2["a",1]`, `37[]`, `511-["a"]`, `51-["a",[{"x":{"_placeholder":true,"num":1}}]]`, `2["\u0064isconnect"]`, `2[null,null]`, `2["n",NaN]`,
		`61-/a,7[1e999,{"\u005fplaceholder":true,"num":-0}]`, `2[ ]`, `2[`, "2[\"a\xff\"]", `52-/x,["a",{"_placeholder":true,"num":0},{"_placeholder":true}]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		in := slices.Clone(p)
		got := CheckDecodable(p)
		if !bytes.Equal(p, in) {
			t.Fatalf("%q was changed to %q", in, p)
		}
		h, err := ParseHeader(p)
		if err != nil {
			if got != OddText {
				t.Fatalf("CheckDecodable(%q) = %v, want OddText: its header is malformed", p, got)
			}
			return
		}
		again := AppendReaddressed(nil, p, &h, "/x")
		if h2, err := ParseHeader(again); err != nil || string(h2.Namespace) != "/x" || h2.Type != h.Type || h2.AckID != h.AckID || h2.Attachments != h.Attachments {
			t.Fatalf("%q, readdressed: %q with %+v, %v", p, again, h2, err)
		}
		if moved := CheckDecodable(again); utf8.Valid(h.Namespace) && moved != got {
			t.Fatalf("CheckDecodable(%q) = %v, and readdressed %v", p, got, moved)
		}
		if got&BadEventName != 0 && !LooksOdd(p) {
			t.Fatalf("LooksOdd(%q) is false, and CheckDecodable %v", p, got)
		}
		if !h.IsEvent() && !h.IsAck() || nestedBeyond(p, jsMaxNesting) {
			return
		}
		data := p[h.Data:]
		if got == Decodable && !strictest.decodes(&h, data) {
			t.Fatalf("CheckDecodable(%q) = Decodable, and the strictest parser does not decode it", p)
		}
		if got == Undecodable && laxest.decodes(&h, data) {
			t.Fatalf("CheckDecodable(%q) = Undecodable, and the laxest parser decodes it", p)
		}
	})
}

func TestAppendReaddressed(t *testing.T) {
	for in, want := range map[string]string{
		`2["a",1]`:          `2/x,["a",1]`,
		`2/chat,["a"]`:      `2/x,["a"]`,
		`2/chat,12["a"]`:    `2/x,12["a"]`,
		`211-["a"]`:         ``, // no packet
		`511-["a"]`:         `511-/x,["a"]`,
		`511-/chat,7["a"]`:  `511-/x,7["a"]`,
		`37[1]`:             `3/x,7[1]`,
		`61-/a/b,7["a",1]`:  `61-/x,7["a",1]`,
		`2/chat9,["a-b"]`:   `2/x,["a-b"]`,
		`51-/a-b,12["a-b"]`: `51-/x,12["a-b"]`,
	} {
		h, err := ParseHeader([]byte(in))
		if err != nil {
			if want != "" {
				t.Errorf("ParseHeader(%q): %v", in, err)
			}
			continue
		}
		if got := string(AppendReaddressed(nil, []byte(in), &h, "/x")); got != want {
			t.Errorf("AppendReaddressed(%q) = %q, want %q", in, got, want)
		}
	}
}
