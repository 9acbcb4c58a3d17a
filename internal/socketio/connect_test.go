package socketio

import (
	"errors"
	"strings"
	"testing"
)

// In these tests, values that start with hf are holdfast's pids and offsets.
func isOurs(s string) bool { return strings.HasPrefix(s, "hf") }

func TestTakeRecovery(t *testing.T) {
	tests := []struct {
		name, in, rest string
		want           Recovery
	}{
		{"no payload", `0`, `0`, Recovery{}},
		{"no payload, in a namespace", `0/chat,`, `0/chat,`, Recovery{}},
		{"empty payload", `0{}`, `0{}`, Recovery{}},
		{"only auth", `0{"token":"x"}`, `0{"token":"x"}`, Recovery{}},
		{
			"pid and offset before auth", `0{"pid":"hf1","offset":"hf2","token":"x"}`, `0{"token":"x"}`,
			Recovery{PID: "hf1", Offset: "hf2"},
		},
		{"pid without offset", `0{"pid":"hf1","token":"x"}`, `0{"token":"x"}`, Recovery{PID: "hf1"}},
		{"offset alone", `0{"offset":"hf2"}`, `0`, Recovery{Offset: "hf2"}},
		{"nothing is left", `0{"pid":"hf1","offset":"hf2"}`, `0`, Recovery{PID: "hf1", Offset: "hf2"}},
		{"nothing is left in a namespace", `0/chat,{"pid":"hf1"}`, `0/chat,`, Recovery{PID: "hf1"}},
		{"between auth keys", `0/chat,{"a":1,"pid":"hf1","b":2}`, `0/chat,{"a":1,"b":2}`, Recovery{PID: "hf1"}},
		{"after auth", `0{"a":1,"offset":"hf2"}`, `0{"a":1}`, Recovery{Offset: "hf2"}},

		// An application's own keys override the library's.
		{"own pid, a string", `0{"pid":"mine","offset":"hf2"}`, `0{"pid":"mine"}`, Recovery{Offset: "hf2"}},
		{"own pid, a number", `0{"pid":1}`, `0{"pid":1}`, Recovery{}},
		{"own pid, a boolean", `0{"pid":true}`, `0{"pid":true}`, Recovery{}},
		{"own pid, null", `0{"pid":null}`, `0{"pid":null}`, Recovery{}},
		{"own pid, an array", `0{"pid":["hf1"]}`, `0{"pid":["hf1"]}`, Recovery{}},
		{"own pid, an object", `0{"pid":{"pid":"hf1"}}`, `0{"pid":{"pid":"hf1"}}`, Recovery{}},
		{"own offset, a string", `0{"pid":"hf1","offset":"mine"}`, `0{"offset":"mine"}`, Recovery{PID: "hf1", ForeignOffset: true}},
		{"own offset, a number", `0{"pid":"hf1","offset":-1.50e3}`, `0{"offset":-1.50e3}`, Recovery{PID: "hf1", ForeignOffset: true}},
		{"own offset, a boolean", `0{"pid":"hf1","offset":false}`, `0{"offset":false}`, Recovery{PID: "hf1", ForeignOffset: true}},
		{"own offset, null", `0{"pid":"hf1","offset":null}`, `0{"offset":null}`, Recovery{PID: "hf1", ForeignOffset: true}},
		{"own offset, an array", `0{"pid":"hf1","offset":[]}`, `0{"offset":[]}`, Recovery{PID: "hf1", ForeignOffset: true}},
		{"own offset, an object", `0{"pid":"hf1","offset":{}}`, `0{"offset":{}}`, Recovery{PID: "hf1", ForeignOffset: true}},
		{"empty strings", `0{"pid":"","offset":""}`, `0{"pid":"","offset":""}`, Recovery{ForeignOffset: true}},

		{"deeper keys are the application's", `0{"pid":"hf1","a":{"pid":"hf3","offset":"hf4"}}`, `0{"a":{"pid":"hf3","offset":"hf4"}}`, Recovery{PID: "hf1"}},
		{"deeper keys only", `0{"a":[{"pid":"hf3"}]}`, `0{"a":[{"pid":"hf3"}]}`, Recovery{}},
		{"a value that is named so", `0{"a":"pid","b":"offset"}`, `0{"a":"pid","b":"offset"}`, Recovery{}},
		{"other keys that begin so", `0{"pids":"hf1","offset2":"hf2"}`, `0{"pids":"hf1","offset2":"hf2"}`, Recovery{}},
		{"keys of another case", `0{"PID":"hf1","Offset":"hf2"}`, `0{"PID":"hf1","Offset":"hf2"}`, Recovery{}},

		{"escaped value", `0{"pid":"\u0068f1","a":1}`, `0{"a":1}`, Recovery{PID: "hf1"}},
		{"escaped key", `0{"\u0070id":"hf1","a":1}`, `0{"a":1}`, Recovery{PID: "hf1"}},
		{"escaped keys", `0{"p\u0069d":"hf1","of\u0066set":"hf2"}`, `0`, Recovery{PID: "hf1", Offset: "hf2"}},
		{"quotes in a value", `0{"a":"\"pid\":\"hf3\"","pid":"hf1"}`, `0{"a":"\"pid\":\"hf3\""}`, Recovery{PID: "hf1"}},
		{"a backslash before a quote", `0{"a":"\\","pid":"hf1","b":"\\\""}`, `0{"a":"\\","b":"\\\""}`, Recovery{PID: "hf1"}},

		{"values keep their form", `0{"pid":"hf1","n":1.0e+02,"s":"\u00e9é\/","o":{ "x" : [ ] }}`, `0{"n":1.0e+02,"s":"\u00e9é\/","o":{ "x" : [ ] }}`, Recovery{PID: "hf1"}},
		{"large numbers keep their digits", `0{"n":12345678901234567890.10,"pid":"hf1"}`, `0{"n":12345678901234567890.10}`, Recovery{PID: "hf1"}},
		{"keys keep their form", `0{"pid":"hf1","\u0061" :1,"a":2}`, `0{"\u0061" :1,"a":2}`, Recovery{PID: "hf1"}},
		{"invalid UTF-8 is kept", "0{\"pid\":\"hf1\",\"a\":\"\xff\"}", "0{\"a\":\"\xff\"}", Recovery{PID: "hf1"}},
		{"order is kept", `0{"z":1,"pid":"hf1","a":2,"offset":"hf2","m":3}`, `0{"z":1,"a":2,"m":3}`, Recovery{PID: "hf1", Offset: "hf2"}},
		{"white space around members", "0{ \"pid\" : \"hf1\" ,\n\t\"a\" : 1 , \"b\":2 } ", `0{"a" : 1,"b":2}`, Recovery{PID: "hf1"}},
		{"white space and nothing else", "0{ \"pid\" : \"hf1\" }\n", `0`, Recovery{PID: "hf1"}},
		{"white space stays where nothing is cut", `0{ "pid" : 1 }`, `0{ "pid" : 1 }`, Recovery{}},

		{"both pids are the library's: the last counts, as in JSON.parse", `0{"pid":"hf1","pid":"hf2"}`, `0`, Recovery{PID: "hf2"}},
		{"library's and own pid", `0{"pid":"hf1","pid":"mine"}`, `0{"pid":"mine"}`, Recovery{PID: "hf1"}},
		{"own pids twice", `0{"pid":"a","pid":"b"}`, `0{"pid":"a","pid":"b"}`, Recovery{}},
		{"library's and own offset", `0{"offset":"hf1","offset":2}`, `0{"offset":2}`, Recovery{Offset: "hf1", ForeignOffset: true}},
		{"other keys twice", `0{"a":1,"pid":"hf1","a":2}`, `0{"a":1,"a":2}`, Recovery{PID: "hf1"}},

		{"not a CONNECT", `2["pid",{"pid":"hf1"}]`, `2["pid",{"pid":"hf1"}]`, Recovery{}},
		{"a namespace of that name", `0/"pid",{"a":1}`, `0/"pid",{"a":1}`, Recovery{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rest, got, err := TakeRecovery([]byte(tt.in), isOurs, isOurs)
			if err != nil || string(rest) != tt.rest || got != tt.want {
				t.Errorf("TakeRecovery(%q) = %q, %+v, %v; want %q, %+v", tt.in, rest, got, err, tt.rest, tt.want)
			}
		})
	}
}

func TestTakeRecoveryMalformed(t *testing.T) {
	tests := []struct{ name, in string }{
		{"nothing", ``},
		{"an array", `0["pid"]`},
		{"white space", `0 `},
		{"no end", `0{"pid":"hf1"`},
		{"no end of a value", `0{"pid":"hf1`},
		{"no value", `0{"pid":}`},
		{"no colon", `0{"pid" "hf1"}`},
		{"two colons", `0{"pid"::"hf1"}`},
		{"two commas", `0{"pid":"hf1",,"a":1}`},
		{"a comma too many", `0{"pid":"hf1",}`},
		{"a comma first", `0{,"pid":"hf1"}`},
		{"no comma", `0{"a":1 "pid":"hf1"}`},
		{"a key that is no string", `0{1:2,"pid":"hf1"}`},
		{"text after it", `0{"pid":"hf1"}x`},
		{"a second object", `0{"pid":"hf1"}{"a":1}`},
		{"a broken value elsewhere", `0{"a":01,"pid":"hf1"}`},
		{"a broken escape", `0{"a":"\x","pid":"hf1"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if rest, r, err := TakeRecovery([]byte(tt.in), isOurs, isOurs); !errors.Is(err, ErrMalformed) {
				t.Errorf("TakeRecovery(%q) = %q, %+v, %v; want ErrMalformed", tt.in, rest, r, err)
			}
		})
	}
}

func TestTakeRecoveryAliases(t *testing.T) {
	untouched := []byte(`0{"token":"x"}`)
	if rest, _, _ := TakeRecovery(untouched, isOurs, isOurs); &rest[0] != &untouched[0] {
		t.Error("a packet of which nothing is cut was copied")
	}
	in := `0{"pid":"hf1","token":"x"}`
	cut := []byte(in)
	if _, _, err := TakeRecovery(cut, isOurs, isOurs); err != nil || string(cut) != in {
		t.Errorf("the caller's packet was changed to %q (%v)", cut, err)
	}
}

// addPID returns the reply unchanged if it has no place for a pid.
func addPID(reply []byte, pid string) (out []byte, ok bool) {
	place, ok := PIDPlace(reply)
	if !ok {
		return reply, false
	}
	return AddPID(reply, place, pid), true
}

func TestAddPID(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"root", `0{"sid":"abc"}`, `0{"sid":"abc","pid":"hf1"}`},
		{"namespace", `0/chat,{"sid":"abc"}`, `0/chat,{"sid":"abc","pid":"hf1"}`},
		{"more keys", `0{"sid":"abc","x":{"pid":1}}`, `0{"sid":"abc","x":{"pid":1},"pid":"hf1"}`},
		{"white space", "0{ \"sid\" : \"abc\" } \n", "0{ \"sid\" : \"abc\",\"pid\":\"hf1\" } \n"},
		{"a sid that is named so", `0{"sid":"pid"}`, `0{"sid":"pid","pid":"hf1"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := []byte(tt.in)
			got, ok := addPID(in, "hf1")
			if !ok || string(got) != tt.want || string(in) != tt.in {
				t.Errorf("AddPID(%q) = %q, %v; want %q (input after it %q)", tt.in, got, ok, tt.want, in)
			}
		})
	}
}

func TestAddPIDRefuses(t *testing.T) {
	tests := []struct{ name, in string }{
		{"nothing", ``},
		{"no payload", `0`},
		{"no payload in a namespace", `0/chat,`},
		{"an empty payload", `0{}`},
		{"the upstream's own pid", `0{"sid":"abc","pid":"xyz"}`},
		{"the upstream's own pid, first", `0{"pid":"xyz","sid":"abc"}`},
		{"the upstream's own pid, escaped", `0{"sid":"abc","\u0070id":"xyz"}`},
		{"a pid that is null", `0{"sid":"abc","pid":null}`},
		{"an array", `0["sid"]`},
		{"cut off", `0{"sid":"abc"`},
		{"text after it", `0{"sid":"abc"}x`},
		{"another type", `4{"message":"no"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, ok := addPID([]byte(tt.in), "hf1"); ok || string(got) != tt.in {
				t.Errorf("AddPID(%q) = %q, %v; want it unchanged", tt.in, got, ok)
			}
		})
	}
}
