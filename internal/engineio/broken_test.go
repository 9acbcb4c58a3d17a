package engineio

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/gobwas/ws"
)

func TestBrokenEndOfAWebSocketHasNoCloseFrame(t *testing.T) {
	for name, end := range map[string]func(*Socket){"close": (*Socket).Close, "abort": (*Socket).Abort} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, h, p := openPipe(t, testOptions)
				h.add("last")
				s.ShowBroken()
				if name == "abort" {
					s.Wake()
				}
				end(s)
				p.want(t, "4last", "EOF")
				h.wantLog(t, "closed: forced close")
			})
		})
	}
}

func TestClientsCloseFrameIsAnsweredWhateverTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, p := openPipe(t, testOptions)
		s.ShowBroken()
		p.sendFrame(t, ws.OpClose, nil)
		p.want(t, "close:", "EOF")
	})
}

func TestBrokenEndIsAnUnknownSIDForPolls(t *testing.T) {
	t.Run("that waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, h := openPolling(t, testOptions)
			p := startWaiting(t, s, "a")
			s.ShowBroken()
			s.Close()
			p.want(t, unknownSID)
			h.wantLog(t, "closed: forced close")
			wantPost(t, s, "p", "4late", unknownSID)
		})
	})
	t.Run("that waits, immediately", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, _ := openPolling(t, testOptions)
			p := startWaiting(t, s, "a")
			s.ShowBroken()
			s.Abort()
			p.want(t, unknownSID)
		})
	})
	t.Run("behind the data", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, h := openPolling(t, testOptions)
			large := strings.Repeat("x", batchBytes)
			h.add(large, "y")
			s.ShowBroken()
			s.Close()
			startPoll(t, s, "a").want(t, "200 4"+large)
			startPoll(t, s, "a").want(t, "200 4"+large) // a retry
			startPoll(t, s, "b").want(t, "200 4y")
			h.wantLog(t, "confirm 1")
			startPoll(t, s, "c").want(t, unknownSID)
			h.wantLog(t, "confirm 2", "closed: forced close")
			startPoll(t, s, "d").want(t, unknownSID)
		})
	})
	t.Run("that the client ended itself", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, _ := openPolling(t, testOptions)
			p := startWaiting(t, s, "a")
			s.ShowBroken()
			wantPost(t, s, "p", "1", okAnswer)
			p.want(t, "200 6")
		})
	})
}
