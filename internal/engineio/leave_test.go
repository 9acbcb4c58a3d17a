package engineio

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// leftSocket returns a Socket over TCP that has just left, and the client's end without a reader.
func leftSocket(t *testing.T, d time.Duration) (*Socket, *fakeHandler, *wsPeer) {
	t.Helper()
	h := newFakeHandler()
	s := NewSocket("sid", testOptions, h)
	ours, theirs := loopback(t)
	p := &wsPeer{conn: theirs, format: clientFrames} // the test reads by itself
	s.StartWebSocket(ours, nil, nil, testHandshake)
	t.Cleanup(s.Abort)
	h.emit(s, "before")
	s.Leave(d)
	return s, h, p
}

// What the client sends before it sees the end is handled, and the end looks like that of a server
// that died.
func TestLeaveHandlesWhatIsUnderWay(t *testing.T) {
	s, h, p := leftSocket(t, time.Minute)
	s.Leave(time.Minute) // once is enough
	h.add("after")
	s.Wake() // nothing more is filled
	p.send(t, "4a", "4b")
	h.await(t, "message 4b")
	p.sendFrame(t, ws.OpBinary, []byte{1})
	all, err := io.ReadAll(p.conn)
	if err != nil || !strings.HasSuffix(string(all), "4before") {
		t.Errorf("the client got %q, %v; want the end after what was sent before", all, err)
	}
	if err := p.conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	h.await(t, "closed: transport close")
	if got := h.took(); !slices.Equal(got, []string{"message 4a", "message 4b", "message b01", "closed: transport close"}) {
		t.Errorf("the handler saw %q", got)
	}
}

// A client that closes the WebSocket itself is gone after what it sent before.
func TestLeaveAndCloseFrame(t *testing.T) {
	_, h, p := leftSocket(t, time.Minute)
	p.send(t, "4a")
	p.sendFrame(t, ws.OpClose, []byte{3, 233})
	p.send(t, "4b")
	h.await(t, "closed: going away")
	if got := h.took(); !slices.Equal(got, []string{"message 4a", "closed: going away"}) {
		t.Errorf("the handler saw %q", got)
	}
}

func TestLeaveTakesNoLongerThanAllowed(t *testing.T) {
	_, h, p := leftSocket(t, 50*time.Millisecond)
	h.await(t, "closed: leave timeout")
	p.conn.Close()
}

// The stream's own timeout is a little longer. After a stall both have passed, and it may be first.
func TestLeaveWhoseStreamEndsFirst(t *testing.T) {
	s, h, p := leftSocket(t, time.Minute)
	s.mu.Lock()
	ws := s.ws
	s.mu.Unlock()
	ws.Closed(netpoll.ErrClosed)
	h.await(t, "closed: leave timeout")
	p.conn.Close()
}

// Reading resumes, because nothing more would resume it.
func TestLeaveWhilePaused(t *testing.T) {
	s, h, p := openLoopback(t, testOptions)
	s.Pause()
	p.send(t, "4a")
	s.Leave(time.Minute)
	h.await(t, "message 4a")
	p.conn.Close()
	h.await(t, "closed: transport close")
}

func TestLeaveWhilePolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		poll := startPoll(t, s, "a")
		synctest.Wait()
		s.Leave(time.Second)
		poll.want(t, unknownSID)
		h.emit(s, "after")
		startPoll(t, s, "b").want(t, unknownSID)
		time.Sleep(100 * time.Millisecond)
		wantPost(t, s, "c", "4a", okAnswer) // it was in progress
		time.Sleep(leaveQuiet - time.Nanosecond)
		h.wantLog(t, "message 4a")
		time.Sleep(time.Nanosecond)
		h.wantLog(t, "closed: forced close")
		wantPost(t, s, "d", "4b", unknownSID)
	})
}

// A POST whose body is still arriving has the full timeout.
func TestLeaveDuringAPost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		r, w := io.Pipe()
		done := make(chan string, 1)
		go func() {
			a, ok := s.Post(context.Background(), "a", "text/plain;charset=UTF-8", -1, r)
			done <- answerText(a, ok)
		}()
		synctest.Wait()
		s.Leave(time.Second)
		time.Sleep(900 * time.Millisecond)
		h.wantLog(t)
		if _, err := w.Write([]byte("4late")); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if got := <-done; got != okAnswer {
			t.Errorf("the POST got %q", got)
		}
		time.Sleep(time.Second)
		h.wantLog(t, "message 4late", "closed: leave timeout")
	})
}

// A client in the middle of an upgrade may finish it, and what it sends next is handled.
func TestLeaveDuringAnUpgrade(t *testing.T) {
	h := newFakeHandler()
	s := NewSocket("sid", testOptions, h)
	s.Start()
	t.Cleanup(s.Abort)
	ours, theirs := loopback(t)
	p := newPeer(theirs, clientFrames)
	s.ServeProbe(ours, nil, nil)
	p.send(t, "2probe")
	p.want(t, "3probe")
	s.Leave(time.Minute)
	p.send(t, "5", "4a")
	h.await(t, "message 4a")
	if err := theirs.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	h.await(t, "closed: transport close")
}

// If the upgrade fails instead, the client polls, and learns of the end.
func TestLeaveDuringAnUpgradeThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		p := startProbed(t, s)
		poll := startPoll(t, s, "a")
		poll.want(t, "200 6")
		s.Leave(time.Minute)
		p.conn.Close()
		synctest.Wait()
		startPoll(t, s, "b").want(t, unknownSID)
		time.Sleep(leaveQuiet)
		h.wantLog(t, "closed: forced close")
	})
}

func TestLeaveAfterTheEnd(t *testing.T) {
	s, h := openPolling(t, testOptions)
	s.Abort()
	s.Leave(time.Minute)
	h.wantClosedOnce(t)
}

func (h *fakeHandler) wantClosedOnce(t *testing.T) {
	t.Helper()
	n := 0
	for _, entry := range h.took() {
		if strings.HasPrefix(entry, "closed") {
			n++
		}
	}
	if n != 1 {
		t.Errorf("closed %d times", n)
	}
}
