package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Kinds of events, as in ../stream.js.
func isAsk(i int) bool    { return i%11 == 7 }
func isBinary(i int) bool { return i%4 == 3 }
func neverAsk(int) bool   { return false }

func sizeOf(i int) int {
	if i%101 == 50 {
		return 40_000
	}
	return i * 131 % 600
}

// body returns the content of number i: a string or a []byte.
func body(i int) any {
	if isBinary(i) {
		return bytes.Repeat([]byte{byte(i)}, sizeOf(i))
	}
	return strings.Repeat("x", sizeOf(i))
}

// intact reports whether got, as sioclient returns it, is the content of number i.
func intact(i int, got any) bool {
	switch want := body(i).(type) {
	case []byte:
		b, ok := got.([]byte)
		return ok && bytes.Equal(b, want)
	default:
		var s string
		raw, ok := got.(json.RawMessage)
		return ok && json.Unmarshal(raw, &s) == nil && s == want
	}
}

// incoming is what a client has recorded of one stream; see Incoming in ../stream.js.
type incoming struct {
	First      *first   `json:"first"`
	Last       *int     `json:"last"`
	Delivered  int      `json:"delivered"`
	AskedAgain int      `json:"askedAgain"`
	Doubled    int      `json:"doubled"`
	Reordered  int      `json:"reordered"`
	Altered    int      `json:"altered"`
	Lost       int      `json:"lost"`
	Ambiguous  [][1]int `json:"ambiguous"`
	Notes      []string `json:"notes"`

	isAsk          func(int) bool
	lastConnection int
	missing        map[int]bool
	ambiguous      map[int]bool
}

// first is the first number that has arrived, and take's other arguments then.
type first struct {
	I          int        `json:"i"`
	Before     int64      `json:"before"`
	Connection connection `json:"connection"`
}

// connection is one of a session's connections.
type connection struct {
	Number      int   `json:"number"`      // from 1 on
	ConnectedAt int64 `json:"connectedAt"` // when it was opened, in milliseconds
}

func newIncoming(isAsk func(int) bool) *incoming {
	return &incoming{isAsk: isAsk, Notes: []string{}, missing: map[int]bool{}, ambiguous: map[int]bool{}}
}

// take records that number i has arrived. The server sent its predecessor at before, by its clock in
// milliseconds.
func (in *incoming) take(i int, before int64, content any, over connection) {
	if in.First == nil {
		last := i - 1
		in.First, in.Last = &first{i, before, over}, &last
	}
	if !intact(i, content) {
		in.Altered++
		in.note("altered", i)
	}
	if i <= *in.Last {
		in.late(i, over.Number)
		return
	}
	for m := *in.Last + 1; m < i; m++ {
		if in.isAsk(m) && over.Number > 1 && before <= over.ConnectedAt {
			in.ambiguous[m] = true
		} else {
			in.missing[m] = true
			in.note("lost", m)
		}
	}
	*in.Last = i
	in.lastConnection = over.Number
	in.Delivered++
}

func (in *incoming) late(i, number int) {
	switch {
	case in.missing[i] || in.ambiguous[i]:
		delete(in.missing, i)
		delete(in.ambiguous, i)
		in.Delivered++
		in.Reordered++
		in.note("reordered", i)
	case i < in.First.I:
		in.Reordered++
		in.note("reordered", i)
	case in.isAsk(i) && i == *in.Last && number > in.lastConnection:
		in.AskedAgain++
	default:
		in.Doubled++
		in.note("doubled", i)
	}
}

func (in *incoming) note(what string, i int) {
	if len(in.Notes) < 5 {
		in.Notes = append(in.Notes, fmt.Sprintf("%s %d after %d", what, i, *in.Last))
	}
}

// count computes what the ledger has of the numbers that did not arrive.
func (in *incoming) count() {
	in.Lost, in.Ambiguous = len(in.missing), [][1]int{}
	for i := range in.ambiguous {
		in.Ambiguous = append(in.Ambiguous, [1]int{i})
	}
}

// epoch is what was sent over one connection; see Outgoing in ../stream.js.
type epoch struct {
	Epoch int    `json:"epoch"`
	SID   string `json:"sid"`
	First int    `json:"first"`
	Last  int    `json:"last"`
	Over  bool   `json:"over"`
}

// session is one that a client had in a namespace.
type session struct {
	SID         string    `json:"sid"`
	Connections int       `json:"connections"`
	Own         *incoming `json:"own"`
	Broadcasts  *incoming `json:"broadcasts"`

	connectedAt int64
}

func newSession(sid string) *session {
	return &session{SID: sid, Own: newIncoming(isAsk), Broadcasts: newIncoming(neverAsk)}
}
