package proxy

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestOwnerThatDoesNotAnswer: clients are sent away for two seconds, and not later.
func TestOwnerThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p ownerPauses
		begin := time.Now()
		now := func() time.Duration { return time.Since(begin) }
		if !p.begins("a", time.Now()) {
			t.Error("fresh sessions at the first time")
		}
		for now() < 5*time.Second {
			time.Sleep(100 * time.Millisecond)
			if got, want := p.begins("a", time.Now()), now() < askTimeout-keyAskTimeout; got != want {
				t.Errorf("after %v: %v", now(), got)
			}
		}
		if !p.begins("b", time.Now()) {
			t.Error("b is another one")
		}
		p.over("a")
		if !p.begins("a", time.Now()) {
			t.Error("it had answered meanwhile")
		}
		time.Sleep(pauseForgotten + time.Second)
		if !p.begins("a", time.Now()) || len(p.list) != 1 {
			t.Error("not forgotten:", p.list)
		}
	})
}
