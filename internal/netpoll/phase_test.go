package netpoll

import (
	"strings"
	"testing"
)

// No phase but frozen leads back to open, every phase leads to closed, and closing leads nowhere
// else.
func TestPhases(t *testing.T) {
	for p := open; p <= frozen; p++ {
		if name := p.String(); name == "" || strings.Contains(name, "(") {
			t.Errorf("phase %d has no name", p)
		}
		for to := open; to <= frozen; to++ {
			got := p
			moved := got.moveLocked(to)
			if want := map[bool]phase{true: to, false: p}[moved]; got != want {
				t.Errorf("from %v to %v: moved %t, now %v", p, to, moved, got)
			}
			switch {
			case to == open && moved && p != frozen:
				t.Errorf("%v leads back to open", p)
			case to == closed && !moved && p != closed:
				t.Errorf("%v does not lead to closed", p)
			case p == closing && moved && to != closed:
				t.Errorf("closing leads to %v", to)
			case p == failed && moved && to != closing && to != closed:
				t.Errorf("failed leads to %v", to)
			}
		}
	}
	if got := phase(99).String(); got != "netpoll.phase(99)" {
		t.Errorf("an unknown phase is %q", got)
	}
}

func TestReadStates(t *testing.T) {
	for r := readOn; r <= readFull; r++ {
		if name := r.String(); name == "" || strings.Contains(name, "(") {
			t.Errorf("readState %d has no name", r)
		}
		if got := r; r != readOn && !got.moveLocked(readOn) {
			t.Errorf("%v does not lead back to on", r)
		}
	}
	if r := readPaused; r.moveLocked(readFull) {
		t.Error("a full Conn overrides Pause")
	}
}
