package engineio

import (
	"net"
	"testing"
	"testing/synctest"

	"github.com/gobwas/ws"
)

func TestAskOverWebSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		s.Ask()
		p.want(t, "ping:?")
		p.sendFrame(t, ws.OpText, []byte("4what was on its way"))
		synctest.Wait()
		if h.alive.Load() != 0 {
			t.Error("a message that was on its way is an answer")
		}
		p.sendFrame(t, ws.OpPong, []byte("17"))
		synctest.Wait()
		if h.alive.Load() != 0 || s.Reached() != 17 {
			t.Error("the answer to a Watch is an answer")
		}
		p.sendFrame(t, ws.OpPong, []byte("?"))
		synctest.Wait()
		if h.alive.Load() != 1 {
			t.Error("the pong is no answer")
		}
		s.Ask()
		p.want(t, "ping:?")
		if h.alive.Load() != 1 {
			t.Error("the answer to the previous ask is one to the next")
		}
		s.Abort()
		s.Ask() // without effect
		p.want(t, "close:", "EOF")
		h.wantLog(t, "message 4what was on its way", "closed: forced close")
	})
}

func TestAskOverPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		p := startWaiting(t, s, "a")
		s.Ask()
		p.want(t, "200 6")
		wantPost(t, s, "x", "4what was on its way", "200 ok")
		if h.alive.Load() != 0 {
			t.Error("a POST is an answer")
		}
		p = startWaiting(t, s, "b")
		if h.alive.Load() != 1 {
			t.Error("the next poll is no answer")
		}
		h.emit(s, "x")
		p.want(t, "200 4x")

		s.Ask() // between two polls: one that was already in flight is not an answer
		startPoll(t, s, "c").want(t, "200 6")
		if h.alive.Load() != 1 {
			t.Error("a poll that was on its way is an answer")
		}
		startWaiting(t, s, "d")
		if h.alive.Load() != 2 {
			t.Error("the poll after it is no answer")
		}
		s.Abort()
	})
}

// A client that is asked before its WebSocket has begun, or while it upgrades, is asked over it.
func TestAskAheadOfAWebSocket(t *testing.T) {
	begin := map[string]func(t *testing.T, s *Socket) *wsPeer{
		"handshake": func(t *testing.T, s *Socket) *wsPeer {
			ours, theirs := net.Pipe()
			t.Cleanup(func() { theirs.Close() })
			p := newPeer(theirs, clientFrames)
			s.Ask()
			s.StartWebSocket(ours, nil, nil, testHandshake)
			p.want(t, openText)
			return p
		},
		"moved": func(t *testing.T, s *Socket) *wsPeer {
			ours, theirs := net.Pipe()
			t.Cleanup(func() { theirs.Close() })
			p := newPeer(theirs, clientFrames)
			s.Ask()
			s.StartMoved(Transfer{WebSocket: true}, ours)
			return p
		},
		"upgrade while no poll waits": func(t *testing.T, s *Socket) *wsPeer {
			s.Start()
			p := startProbed(t, s)
			s.Ask()
			p.send(t, "5")
			return p
		},
		"upgrade after a poll was answered": func(t *testing.T, s *Socket) *wsPeer {
			s.Start()
			p, poll := startProbed(t, s), startWaiting(t, s, "a")
			s.Ask()
			poll.want(t, "200 6")
			p.send(t, "5")
			return p
		},
	}
	for name, begin := range begin {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newFakeHandler()
				s := NewSocket("sid", testOptions, h)
				defer s.Abort()
				p := begin(t, s)
				p.want(t, "ping:?")
				p.sendFrame(t, ws.OpPong, []byte("?"))
				synctest.Wait()
				if h.alive.Load() != 1 {
					t.Error("the pong is no answer")
				}
			})
		})
	}
}
