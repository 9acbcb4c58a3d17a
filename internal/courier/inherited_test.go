package courier

import (
	"slices"
	"testing"
)

func TestInherit(t *testing.T) {
	in := &Inherited{Snapshot: 7, Old: 9, Failure: "it failed: with a colon"}
	got, rest := Inherit([]string{"A=1", Variable + "=" + in.String(), "B=2"})
	if got == nil || *got != *in || !slices.Equal(rest, []string{"A=1", "B=2"}) {
		t.Errorf("got %+v, %v", got, rest)
	}
	for _, text := range []string{"", "7", "7:9", "x:9:", "7:x:"} {
		if got, rest := Inherit([]string{Variable + "=" + text}); got != nil || len(rest) != 0 {
			t.Errorf("%q: %+v, %v", text, got, rest)
		}
	}
	if got, rest := Inherit([]string{"A=1"}); got != nil || len(rest) != 1 {
		t.Errorf("nothing: %+v, %v", got, rest)
	}
}

func TestResultsHaveMetrics(t *testing.T) {
	if got := Results(); !slices.Equal(got, []string{OK, Failed, Restored, Rejected}) {
		t.Errorf("results: %v", got)
	}
}
