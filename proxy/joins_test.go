package proxy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/session"
)

// What is remembered for one session is bounded, and released with it.
func TestJoinsAreBounded(t *testing.T) {
	j, s := newJoins([]string{"join"}), &session.Session{}
	const first, second = 1, 2
	say := func(client uint64, text string, id int64) (repeated, answered bool) {
		p := &packet{data: []byte(text)}
		if err := p.h.Parse(p.data); err != nil {
			t.Fatal(text, err)
		}
		repeated, answer := j.repeated(client, s, p, id)
		return repeated, answer != nil
	}
	answer := func(id int64, bytes int) {
		p := &packet{data: fmt.Appendf(nil, "3%d[%q]", id, strings.Repeat("x", bytes))}
		if err := p.h.Parse(p.data); err != nil {
			t.Fatal(err)
		}
		j.answered(s, p)
	}
	for i := range 2 * maxJoins {
		say(first, fmt.Sprintf(`2%d["join",%d]`, i, i), int64(i))
		answer(int64(i), maxAnswerBytes/maxJoins*2)
	}
	repeats := 0
	for i := range 2 * maxJoins {
		if repeated, answered := say(second, fmt.Sprintf(`21["join",%d]`, i), 1); repeated {
			repeats++
			if !answered {
				t.Errorf("%d is repeated without an answer", i)
			}
		}
	}
	if all := j.sessions[s]; len(all.events) > maxJoins || len(all.asked) > maxJoins || all.answerBytes > maxAnswerBytes || repeats == 0 || repeats > maxJoins {
		t.Errorf("%d events, %d asked, %d bytes, %d repeats", len(all.events), len(all.asked), all.answerBytes, repeats)
	}
	if repeated, _ := say(second, `2["leave",1]`, -1); repeated {
		t.Error("an event that is not named is repeated")
	}
	j.forget(s)
	if len(j.sessions) != 0 {
		t.Error("a session that has ended is remembered")
	}
	(*joins)(nil).forget(s)
}
