package proxy

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/handover"
	"github.com/holdfast/holdfast/internal/netpoll"
)

// handOverTo moves everything from r's proxy to next's, as from process to process. The old proxy
// stays frozen until the end of the test.
func (r *rig) handOverTo(next *rig) (Handed, Restored) {
	r.t.Helper()
	frozen := r.proxy.Freeze(netpoll.Barrier)
	r.t.Cleanup(frozen.Thaw)
	var data bytes.Buffer
	w := handover.NewWriter(&data)
	handed := frozen.Write(w, handover.Process{Version: "test"}, nil, func(fd int) int {
		n, err := syscall.Dup(fd) // in one process both would close the same number
		if err != nil {
			r.t.Fatal(err)
		}
		return n
	})
	if err := w.End(); err != nil {
		r.t.Fatal(err)
	}
	if _, err := handover.Verify(data.Bytes()); err != nil {
		r.t.Fatal(err)
	}
	restored, err := next.proxy.Restore(data.Bytes(), 0, func(fd int) int { return fd }, nil, func() {})
	if err != nil {
		r.t.Fatal(err)
	}
	return handed, restored
}

// leave lets the proxy leave, and the client end its side when it sees that.
func (r *rig) leave(clients ...*peer) Left {
	left := make(chan Left, 1)
	go func() { left <- r.proxy.Leave(10*time.Second, time.Minute) }()
	for _, c := range clients {
		c.wantEnd()
		c.conn.Close()
	}
	return <-left
}

// pidOf returns the pid in a CONNECT reply.
func pidOf(t *testing.T, reply string) string {
	t.Helper()
	var r struct{ PID string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(reply, "40")), &r); err != nil || r.PID == "" {
		t.Fatalf("no pid in %q, %v", reply, err)
	}
	return r.PID
}

// connectScripted connects a client's namespace, and returns the server's end and the pid.
func (r *rig) connectScripted(s *script) (c, up *peer, pid string) {
	r.t.Helper()
	c = r.dial()
	up = s.accept()
	c.send("40")
	up.want("40")
	up.send(`40{"sid":"socket"}`)
	reply, err := c.next()
	if err != nil {
		r.t.Fatal(err)
	}
	return c, up, pidOf(r.t, reply)
}

func needsLoop(t *testing.T) {
	if loopIsOff {
		t.Skip("nothing can be handed over")
	}
}

// A link and its session work in the next process as before: what was missed, what is half
// received, CONNECTs without a reply, and the namespaces that have ended.
func TestHandover(t *testing.T) {
	needsLoop(t)
	old, s := newScriptedRig(t, func(c *config.Config) { c.Recovery.Bind.Auth = []string{"token"} })
	next, _ := newScriptedRig(t, func(c *config.Config) { c.Recovery.Bind.Auth = []string{"token"} })
	c, up, pid := old.connectScripted(s)
	up.send(`42["n",1]`)
	c.want(`42["n",1`)
	c.send(`42["up",1]`)
	up.want(`42["up",1]`)
	c.send("40/admin,")
	up.want("40/admin,")
	c.send("40/chat,")
	up.want("40/chat,")
	up.send(`40/chat,{"sid":"chat"}`)
	c.want("40/chat,")
	c.send("41/chat,")
	up.want("41/chat,")
	left := old.leave(c)
	if left.Clients != 1 || left.Cut != 0 || left.Passing != 0 {
		t.Errorf("left: %+v", left)
	}
	up.send(`42["n",2]`, `451-["n",3,{"_placeholder":true,"num":0}]`)
	old.await("what the server sent", func() bool { return old.proxy.budget.Packets() >= 1 })

	handed, restored := old.handOverTo(next)
	if handed.Links != 1 || handed.Sessions != 1 || handed.Lost != 0 || restored.Links != 1 || restored.Sessions != 1 || restored.Failed != 0 {
		t.Errorf("handed over %+v, restored %+v", handed, restored)
	}
	up.send(`bAQ==`, `40/admin,{"sid":"admin"}`, `42/chat,["late"]`, `42["n",4]`)
	up.want("41/admin,") // no client takes the socket any more

	back := next.dial()
	back.send(`40{"pid":"` + pid + `"}`)
	back.want(`40{"sid":"socket"`, `42["n",1`, `42["n",2`, `451-["n",3`, "\x01", `42["n",4`)
	back.send(`42["up",2]`)
	up.want(`42["up",2]`)
	up.send(`42["n",5]`)
	back.want(`42["n",5`)
	if got := next.proxy.handshaker.count.Load(); got < old.proxy.handshaker.count.Load() {
		t.Errorf("the next process numbers clients from %d on", got)
	}
}

// The numbers of clients continue, even if they were times before. The counter says nothing then.
func TestHandoverContinuesTheNumbersOfClients(t *testing.T) {
	needsLoop(t)
	old, s := newScriptedRig(t, nil)
	next, _ := newScriptedRig(t, nil)
	old.proxy.handshaker.count.Store(1 << 50)
	c, _, pid := old.connectScripted(s)
	old.leave(c)
	old.proxy.handshaker.count.Store(0)
	old.handOverTo(next)
	back := next.dial()
	back.send(`40{"pid":"` + pid + `"}`)
	back.want(`40{"sid":"socket"`)
}

// If the bindings have changed, bound sessions end, and their clients learn why.
func TestHandoverWithOtherBindings(t *testing.T) {
	needsLoop(t)
	bound := func(names ...string) func(*config.Config) {
		return func(c *config.Config) { c.Recovery.Bind.Auth = names }
	}
	old, s := newScriptedRig(t, bound("token"))
	next, _ := newScriptedRig(t, bound("token", "user"))
	c, up, pid := old.connectScripted(s)
	old.leave(c)
	if _, restored := old.handOverTo(next); restored.Sessions != 0 || restored.Failed != 1 {
		t.Errorf("restored %+v", restored)
	}
	_ = up // its link is closed, because nothing uses it
	back := next.dial()
	back.send(`40{"pid":"` + pid + `"}`)
	next.await("the reason", func() bool { return strings.Contains(next.logs.String(), `msg="not recovered"`) })
	if !strings.Contains(next.logs.String(), "reason=binding") {
		t.Error("another reason than the binding")
	}
}

// A failed handover continues with everything.
func TestThawAndStay(t *testing.T) {
	needsLoop(t)
	r, s := newScriptedRig(t, nil)
	c, up, pid := r.connectScripted(s)
	r.leave(c)
	if err := r.proxy.Ready(); err == nil {
		t.Error("ready while leaving")
	}
	frozen := r.proxy.Freeze(netpoll.Barrier)
	up.send(`42["n",1]`)
	frozen.Thaw()
	r.proxy.Stay()
	if err := r.proxy.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	back := r.dial()
	back.send(`40{"pid":"` + pid + `"}`)
	back.want(`40{"sid":"socket"`, `42["n",1`)
}

// A client that does not end its side is cut, and its session is kept.
func TestLeaveCutsClientsThatStay(t *testing.T) {
	r, s := newScriptedRig(t, nil)
	_, _, _ = r.connectScripted(s)
	if left := r.proxy.Leave(20*time.Millisecond, time.Minute); left.Clients != 1 || left.Cut != 1 {
		t.Errorf("left: %+v", left)
	}
	if live, parked := r.proxy.Sessions(); live != 0 || parked != 1 {
		t.Errorf("%d live, %d parked", live, parked)
	}
}

// What the client sends until it sees the end reaches the server.
func TestLeaveForwardsTheLastMessages(t *testing.T) {
	r, s := newScriptedRig(t, nil)
	c, up, _ := r.connectScripted(s)
	left := make(chan Left, 1)
	go func() { left <- r.proxy.Leave(10*time.Second, time.Minute) }()
	if _, err := io.ReadAll(c.conn); err != nil { // the end, without a Close frame
		t.Fatal(err)
	}
	c.send(`42["last"]`)
	if err := c.conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	up.want(`42["last"]`)
	if l := <-left; l.Cut != 0 {
		t.Errorf("left: %+v", l)
	}
}

// Links that are polling, or that relay another parser, cannot be handed over.
func TestHandoverCountsWhatIsLost(t *testing.T) {
	needsLoop(t)
	old, s := newScriptedRig(t, nil)
	next, _ := newScriptedRig(t, nil)
	raw := old.dial()
	up := s.accept()
	raw.send("4x not Socket.IO")
	up.want("4x")
	old.leave(raw)
	if handed, _ := old.handOverTo(next); handed != (Handed{}) {
		t.Errorf("handed over %+v", handed)
	}
	up.wantEnd()
}
