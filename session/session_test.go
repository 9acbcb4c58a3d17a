package session

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/reason"
)

func TestAppendErrors(t *testing.T) {
	limits := Limits{MaxPackets: 3, MaxBytes: 1000, WindowBytes: 500}
	tests := []struct {
		name  string
		park  bool
		close reason.Reason
		sizes []int
		want  []error
	}{
		{"live, any number", false, "", []int{1, 1, 1, 1, 1, 1000}, []error{nil, nil, nil, nil, nil, nil}},
		{"parked, up to the packet limit", true, "", []int{1, 1, 1, 1}, []error{nil, nil, nil, ErrFull}},
		{"parked, up to the byte limit", true, "", []int{800, 200}, []error{nil, ErrFull}},
		{"parked, one too large", true, "", []int{1001}, []error{ErrFull}},
		{"closed", false, reason.ServerDisconnect, []int{1, 1}, []error{ErrClosed, ErrClosed}},
		{"parked and closed", true, reason.UpstreamLost, []int{1}, []error{ErrClosed}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, limits, 10)
			c := w.open("/")
			s := c.Session()
			if tt.park {
				w.Park([]*Cursor{c}, time.Minute, "cut")
			}
			if tt.close != "" {
				w.Close(s, tt.close)
			}
			for i, n := range tt.sizes {
				cur, err := s.Append(noOffset(strings.Repeat("x", n)))
				if !errors.Is(err, tt.want[i]) || (tt.want[i] == nil) != (err == nil) {
					t.Errorf("packet %d of %d bytes: %v, want %v", i+1, n, err, tt.want[i])
				}
				if wakes := err == nil && !tt.park; (cur != nil) != wakes {
					t.Errorf("packet %d: cursor to wake %v, want one: %v", i+1, cur, wakes)
				}
			}
			w.finish()
		})
	}
}

func TestStringsAndAccessors(t *testing.T) {
	for s, want := range map[State]string{Live: "live", Parked: "parked", Closed: "closed", 0: "unknown", 99: "unknown"} {
		if got := s.String(); got != want {
			t.Errorf("State(%d) = %q, want %q", s, got, want)
		}
	}
	w := newWorld(t, roomy, 10)
	c := w.open("/chat")
	s := c.Session()
	if s.Namespace() != "/chat" || s.Upstream() != w.link || !IsPID(s.PID()) || c.Owner() != s.Attached() || !c.Attached() {
		t.Errorf("namespace %q, upstream %v, pid %q, owner %v, attached %v", s.Namespace(), s.Upstream(), s.PID(), c.Owner(), s.Attached())
	}
	w.Park([]*Cursor{c}, time.Minute, "cut")
	if s.Attached() != nil || c.Attached() {
		t.Errorf("parked, but attached to %v", s.Attached())
	}
	w.finish()

	plainOne := w.New(w.link, "/", &client{1}, false)
	if plainOne.Session().PID() != "" {
		t.Error("a session that cannot be resumed has a pid")
	}
	w.Close(plainOne.Session(), reason.ServerDisconnect)
}

func offsetOf(s *Session, seq uint64) string { return string(Offset{s.tag, seq}.AppendTo(nil)) }
