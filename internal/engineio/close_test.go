package engineio

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

// For each way in which a WebSocket ends: what the client receives, and what the Handler learns.
func TestWebSocketEnds(t *testing.T) {
	closeFrame := func(code ws.StatusCode, reason string) func(t *testing.T, p *wsPeer) {
		return func(t *testing.T, p *wsPeer) { p.sendFrame(t, ws.OpClose, ws.NewCloseFrameBody(code, reason)) }
	}
	text := func(s string) func(t *testing.T, p *wsPeer) {
		return func(t *testing.T, p *wsPeer) { p.send(t, s) }
	}
	frames := func(f ...rawFrame) func(t *testing.T, p *wsPeer) {
		return func(t *testing.T, p *wsPeer) { p.writeBytes(t, wire(f...)) }
	}
	opts := testOptions
	opts.MaxPayload = 100
	tests := []struct {
		name   string
		do     func(t *testing.T, p *wsPeer)
		frame  string
		closed string
	}{
		{"close", closeFrame(1000, "bye"), "close:1000", "transport close"},
		{"close without a code", func(t *testing.T, p *wsPeer) { p.sendFrame(t, ws.OpClose, nil) }, "close:", "transport close"},
		{"close of a page", closeFrame(1001, ""), "close:1001", "going away"},
		{"close with an application's code", closeFrame(4321, "x"), "close:4321", "transport close"},
		{"close with a bad code", closeFrame(1005, ""), "close:1002", "parse error"},
		{"close with half a code", func(t *testing.T, p *wsPeer) { p.sendFrame(t, ws.OpClose, []byte{3}) }, "close:1002", "parse error"},
		{"Engine.IO close", text("1"), "close:", "client close"},
		{"ping, which is the server's", text("2"), "close:", "parse error"},
		{"probe on the transport", text("2probe"), "close:", "parse error"},
		{"unknown packet", text("7"), "close:", "parse error"},
		{"empty packet", text(""), "close:", "parse error"},
		{"bad UTF-8", text("4\xff"), "close:1007", "parse error"},
		{"over the limit", text("4" + strings.Repeat("x", 100)), "close:1009", "parse error"},
		{
			"fragments over the limit",
			frames(fragment(ws.OpText, false, "4"+strings.Repeat("x", 60)), fragment(0, true, strings.Repeat("x", 60))),
			"close:1009", "parse error",
		},
		{"not masked", frames(rawFrame{first: fin | 1, payload: "4x"}), "close:1002", "parse error"},
		{"reserved bit", frames(rawFrame{first: fin | 0x40 | 1, masked: true}), "close:1002", "parse error"},
		{"the connection's end", func(t *testing.T, p *wsPeer) {
			if err := p.conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}, "", "transport close"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, h, p := openLoopback(t, opts)
			p.send(t, "4before")
			tt.do(t, p)
			if tt.frame != "" {
				p.want(t, tt.frame)
			}
			p.want(t, "EOF")
			h.await(t, "closed: "+tt.closed)
			if got := fmt.Sprint(h.took()); got != "[message 4before closed: "+tt.closed+"]" {
				t.Errorf("the handler saw %s", got)
			}
		})
	}
}

func TestDataAfterClose(t *testing.T) {
	_, h, p := openLoopback(t, testOptions)
	p.sendFrame(t, ws.OpClose, ws.NewCloseFrameBody(1000, ""))
	p.want(t, "close:1000", "EOF")
	p.send(t, "4late", "4r")
	p.conn.Close()
	h.await(t, "closed: transport close")
	if got := fmt.Sprint(h.took()); got != "[closed: transport close]" {
		t.Errorf("the handler saw %s", got)
	}
}

// A client may answer our Close frame, or continue to send for a while.
func TestDataAfterOurClose(t *testing.T) {
	s, h, p := openLoopback(t, testOptions)
	s.Close()
	p.want(t, "close:", "EOF")
	p.send(t, "4late")
	p.sendFrame(t, ws.OpClose, nil)
	p.conn.Close()
	h.await(t, "closed: forced close")
	if got := fmt.Sprint(h.took()); got != "[closed: forced close]" {
		t.Errorf("the handler saw %s", got)
	}
}

func TestCloseWebSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		h.add("a", "b")
		s.Close()
		s.Close()
		p.want(t, "4a", "4b", "close:", "EOF")
		h.wantLog(t, "closed: forced close")
	})
}

// A Handler may hold packets back until others are confirmed. Close still delivers them.
func TestCloseDeliversWhatIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		h.askForConfirmations()
		h.window = 2
		h.emit(s, "a", "b", "c", "d", "e")
		p.want(t, "4a", "4b", "2")
		s.Close()
		p.wantNothing(t)
		p.send(t, "3")
		p.want(t, "4c", "4d", "2")
		p.send(t, "4ignored", "3")
		p.want(t, "4e", "2")
		p.send(t, "3")
		p.want(t, "close:", "EOF")
		h.wantLog(t, "confirm ping", "confirm 2", "confirm ping", "confirm 4", "confirm ping", "confirm 5", "closed: forced close")
	})
}

func TestCloseDoesNotWaitForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		h.askForConfirmations()
		h.window = 1
		h.emit(s, "a", "b")
		p.want(t, "4a", "2")
		s.Close()
		until(t, lingerTimeout, func() { p.wantNothing(t) })
		p.want(t, "close:", "EOF")
		h.wantLog(t, "confirm ping", "closed: forced close")
	})
}

// While the Socket closes, a pong does not move the timer that limits the end.
func TestPongWhileClosing(t *testing.T) {
	opts := testOptions
	opts.PingInterval = time.Second
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, opts)
		h.askForConfirmations()
		h.window = 1
		h.emit(s, "a", "b", "c")
		p.want(t, "4a", "2")
		s.Close()
		p.send(t, "3")
		p.want(t, "4b", "2")
		time.Sleep(lingerTimeout - time.Second)
		p.send(t, "3")
		p.want(t, "4c", "2")
		p.send(t, "3")
		p.want(t, "close:", "EOF")
	})
}

// While the Socket closes, frames may follow the last wanted one, whole or in parts.
func TestPartialFramesWhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		h.askForConfirmations()
		h.window = 1
		h.emit(s, "a", "b")
		p.want(t, "4a", "2")
		s.Close()
		in := wire(fromClient(ws.OpText, "4ignored"), fromClient(ws.OpText, "3"))
		cut := len(in) - 2
		p.writeBytes(t, in[:cut])
		p.writeBytes(t, in[cut:])
		p.want(t, "4b", "2")
		p.send(t, "3")
		p.want(t, "close:", "EOF")
		h.wantLog(t, "confirm ping", "confirm 1", "confirm ping", "confirm 2", "closed: forced close")
	})
}

func TestCloseBeforeWebSocketStarts(t *testing.T) {
	for _, tt := range []struct {
		name  string
		end   func(s *Socket)
		after []string
	}{
		{"closed", (*Socket).Close, []string{openText, "4x", "close:", "EOF"}},
		{"aborted", (*Socket).Abort, []string{openText, "close:", "EOF"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newFakeHandler()
				s := NewSocket("sid", testOptions, h)
				h.add("x")
				tt.end(s)
				ours, theirs := net.Pipe()
				defer theirs.Close()
				p := newPeer(theirs, clientFrames)
				s.StartWebSocket(ours, nil, nil, testHandshake)
				p.want(t, tt.after...)
				h.wantLog(t, "closed: forced close")
			})
		})
	}
}

func TestAbortWebSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe(t, testOptions)
		h.add("a")
		s.Abort()
		p.want(t, "close:", "EOF")
		h.wantLog(t, "closed: forced close")
	})
}

func TestAbortWithinMessage(t *testing.T) {
	s, h, p := openLoopback(t, testOptions)
	h.onMessage = func(string) { s.Abort() }
	p.send(t, "4a", "4b")
	p.want(t, "close:", "EOF")
	h.await(t, "flush")
	if got := fmt.Sprint(h.took()); got != "[closed: forced close message 4a]" {
		t.Errorf("the handler saw %s", got)
	}
}
