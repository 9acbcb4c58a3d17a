package engineio

import (
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
)

// A client repeats a poll whose connection was reset, gets the answer, and continues. The first
// poll was delayed, and arrives now. It proves nothing, takes nothing, and ends nothing.
func TestLatePoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		h.add("x")
		startPoll(t, s, "a").want(t, "200 4x")
		h.add("y")
		startPoll(t, s, "b").want(t, "200 4y")
		h.wantLog(t, "confirm 1")
		h.add("z")
		startPoll(t, s, "a").want(t, "200 6")
		h.wantLog(t)
		startPoll(t, s, "b").want(t, "200 4y") // the client has not seen it after all
		waiting := startPoll(t, s, "c")
		waiting.want(t, "200 4z")
		h.wantLog(t, "confirm 2")
		waiting = startWaiting(t, s, "d")
		for _, id := range []string{"a", "b", "c"} {
			startPoll(t, s, id).want(t, "200 6")
		}
		h.wantLog(t, "confirm 3")
		waiting.wantWaiting(t)
		h.emit(s, "v")
		waiting.want(t, "200 4v")
	})
}

// A Socket that takes over a client's transport knows what the first one handled.
func TestLateRequestsOfAMovedClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, h := openPolling(t, testOptions)
		wantPost(t, first, "p", "4x", okAnswer)
		wantPost(t, first, "q", "4y", okAnswer)
		h.wantLog(t, "message 4x", "message 4y")
		waiting := startWaiting(t, first, "a")
		var moved Detached
		first.Input(func() { moved, _ = first.Detach(nil) })
		waiting.want(t, "200 6")

		h = newFakeHandler()
		second := NewSocket("sid", testOptions, h)
		second.StartMoved(moved.Transfer, nil)
		t.Cleanup(second.Abort)
		startPoll(t, second, "a").want(t, "200 6")
		waiting = startWaiting(t, second, "b")
		wantPost(t, second, "p", "4x", okAnswer)
		wantPost(t, second, "q", "4y", okAnswer)
		h.wantLog(t)
		wantPost(t, second, "r", "4z", okAnswer)
		h.wantLog(t, "message 4z")
		startPoll(t, second, "a").want(t, "200 6")
		waiting.wantWaiting(t)
	})
}

func TestRequestLogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l requestLog
		for i := range 3 * maxRequests {
			l.add(pollHash(fmt.Sprint(i)), 0)
		}
		if len(l.entries) != maxRequests || l.has(pollHash("0"), 0) || !l.has(pollHash(fmt.Sprint(3*maxRequests-1)), 0) {
			t.Errorf("%d requests are remembered, the first one: %v", len(l.entries), l.has(pollHash("0"), 0))
		}
		time.Sleep(repeatTime + 1)
		l.add(postHash("last"), 1)
		if len(l.entries) != 1 || l.has(postHash("last"), 2) || l.has(pollHash("last"), 0) || !l.has(postHash("last"), 1) {
			t.Errorf("after %v: %v", repeatTime, l.entries)
		}
	})
}

// A client that was moved is not read while something that came with it needs another link.
func TestMovedWhilePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHandler()
		s := NewSocket("sid", testOptions, h)
		ours, theirs := net.Pipe()
		s.Pause()
		s.StartMoved(Transfer{WebSocket: true, Input: wire(fromClient(ws.OpText, "4a"), fromClient(ws.OpText, "4b"))}, ours)
		synctest.Wait()
		h.wantLog(t)
		s.Resume()
		synctest.Wait()
		h.wantLog(t, "message 4a", "message 4b")
		s.Abort()
		theirs.Close()
		synctest.Wait()
	})
}
