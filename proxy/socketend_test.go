package proxy

import (
	"testing"
)

// socketEnds are packets whose type alone says that the socket of /a is gone. python-socketio
// writes some of the first ones. The reference server writes only the bare form.
var socketEnds = []string{
	`41/a,`, `41/a`, `41/a,{"message":"no"}`, `41/a,"no"`, `41/a,["no"]`, `41/a,7`, `41/a,99999999999999999999{}`, `41/a,null`, `41/a,x`,
}

// twoSessions returns a client that is connected to /a and /b, and the server's end of its link.
func twoSessions(t *testing.T) (r *rig, c, up *peer) {
	t.Helper()
	r, s := newScriptedRig(t, nil)
	c = r.dial()
	up = s.accept()
	c.send("40/a,", "40/b,")
	up.want("40/a,", "40/b,")
	up.send(`40/a,{"sid":"a"}`, `40/b,{"sid":"b"}`)
	c.want("40/a,", "40/b,")
	return r, c, up
}

func TestServersPacketThatEndsASocketEndsItsSession(t *testing.T) {
	for _, end := range append([]string{
		`44/a,{"message":"no"}`, `44/a,"no"`, `44/a`, `44/a,99999999999999999999{"message":"no"}`,
	}, socketEnds...) {
		t.Run(end, func(t *testing.T) {
			r, c, up := twoSessions(t)
			up.send(`42/a,["before"]`, end, `42/b,["behind"]`)
			c.want(`42/a,["before","hf`)
			if got, err := c.next(); err != nil || got != end {
				t.Fatalf("the client got %q, %v; want %q as the server wrote it", got, err, end)
			}
			c.want(`42/b,["behind","hf`)
			if live, parked := r.proxy.registry.Counts(); live != 1 || parked != 0 {
				t.Errorf("%d sessions are live and %d parked, want that of /b", live, parked)
			}
		})
	}
}

func TestServersPacketThatEndsASocketEndsAParkedSession(t *testing.T) {
	for _, end := range append([]string{`44/a,{"message":"no"}`}, socketEnds...) {
		t.Run(end, func(t *testing.T) {
			r, s := newScriptedRig(t, nil)
			c := r.dial()
			up := s.accept()
			c.send("40/a,")
			up.want("40/a,")
			up.send(`40/a,{"sid":"a"}`)
			c.want("40/a,")
			c.conn.Close()
			r.await("parking", func() bool { _, parked := r.proxy.registry.Counts(); return parked == 1 })
			up.send(end)
			r.awaitNothing()
		})
	}
}

func TestClientsDisconnectEndsItsSessionWhateverFollows(t *testing.T) {
	for _, end := range socketEnds {
		t.Run(end, func(t *testing.T) {
			r, c, up := twoSessions(t)
			c.send(end)
			if got, err := up.next(); err != nil || got != end {
				t.Fatalf("the server got %q, %v; want %q as the client wrote it", got, err, end)
			}
			r.await("the session's end", func() bool { live, parked := r.proxy.registry.Counts(); return live == 1 && parked == 0 })
		})
	}
}

func TestRefusalReachesTheClientWhateverItsForm(t *testing.T) {
	for _, refusal := range []string{`44/a,{"message":"no"}`, `44/a,"no"`, `44/a,99999999999999999999{}`, `44/a`} {
		t.Run(refusal, func(t *testing.T) {
			r, s := newScriptedRig(t, nil)
			c := r.dial()
			up := s.accept()
			c.send("40/a,")
			up.want("40/a,")
			up.send(refusal)
			if got, err := c.next(); err != nil || got != refusal {
				t.Fatalf("the client got %q, %v; want %q as the server wrote it", got, err, refusal)
			}
			c.send("40/a,") // the connection and the link are still open
			up.want("40/a,")
			up.send(`40/a,{"sid":"a"}`)
			c.want(`40/a,{"sid":"a"`)
		})
	}
}
