package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// as returns the content of number i as sioclient would.
func as(i int) any {
	if b, ok := body(i).([]byte); ok {
		return b
	}
	text, _ := json.Marshal(body(i)) // strings cannot fail
	return json.RawMessage(text)
}

func TestIncoming(t *testing.T) {
	// Numbers above cut come over the second connection; number i was sent at 100i.
	const cut, reconnected = 7, 750
	type counts struct{ lost, doubled, reordered, altered, ambiguous, askedAgain int }
	tests := []struct {
		name    string
		numbers []int
		want    counts
	}{
		{"whole", []int{1, 2, 3, 4, 5, 6, 7, 8, 9}, counts{}},
		{"one lost", []int{1, 2, 3, 5, 6}, counts{lost: 1}},
		{"the first one later than others", []int{2, 3, 1}, counts{reordered: 1}},
		{"one doubled", []int{1, 2, 3, 2, 4}, counts{doubled: 1}},
		{"another order", []int{1, 3, 2, 4}, counts{reordered: 1}},
		{"an ack event lost at the cut", []int{1, 2, 3, 4, 5, 6, 8, 9}, counts{ambiguous: 1}},
		{"an ack event lost long after the cut", []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 19}, counts{lost: 1}},
		{"an altered one", []int{1, 2, -3}, counts{altered: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := newIncoming(isAsk)
			for _, i := range tt.numbers {
				content := as(max(i, 0))
				if i < 0 {
					i, content = -i, json.RawMessage(`"?"`)
				}
				over := connection{Number: 1}
				if i > cut {
					over = connection{2, reconnected}
				}
				in.take(i, int64(i-1)*100, content, over)
			}
			in.count()
			got := counts{in.Lost, in.Doubled, in.Reordered, in.Altered, len(in.Ambiguous), in.AskedAgain}
			if got != tt.want {
				t.Errorf("after %v: %+v, want %+v (%s)", tt.numbers, got, tt.want, strings.Join(in.Notes, "; "))
			}
		})
	}
}

func TestAnAckEventMayComeAgainAtACut(t *testing.T) {
	in := newIncoming(isAsk)
	for i := 1; i <= 7; i++ {
		in.take(i, 0, as(i), connection{Number: 1})
	}
	in.take(7, 0, as(7), connection{2, 1})
	if in.AskedAgain != 1 || in.Doubled != 0 {
		t.Errorf("over the next connection: asked again %d, doubled %d; want 1, 0", in.AskedAgain, in.Doubled)
	}
	in.take(7, 0, as(7), connection{Number: 1})
	if in.Doubled != 1 {
		t.Errorf("over the same connection: doubled %d, want 1", in.Doubled)
	}
}
