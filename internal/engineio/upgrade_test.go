package engineio

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
)

// startProbed is startProbe, with the probe answered.
func startProbed(t *testing.T, s *Socket) *wsPeer {
	t.Helper()
	p := startProbe(t, s)
	p.send(t, "2probe")
	p.want(t, "3probe")
	return p
}

// startProbe opens a WebSocket with a Socket's sid over a net.Pipe, for use in a bubble.
func startProbe(t *testing.T, s *Socket) *wsPeer {
	t.Helper()
	ours, theirs := net.Pipe()
	p := newPeer(theirs, clientFrames)
	t.Cleanup(func() { theirs.Close() })
	s.ServeProbe(ours, nil, nil)
	return p
}

// upgraded returns a Socket that was upgraded to a WebSocket.
func upgraded(t *testing.T) (*Socket, *fakeHandler, *wsPeer) {
	t.Helper()
	s, h := openPolling(t, testOptions)
	p := startProbed(t, s)
	p.send(t, "5")
	h.wantLog(t, "upgraded", "confirm 0")
	return s, h, p
}

func TestUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		h.add("a")
		startPoll(t, s, "a").want(t, "200 4a")
		p := startProbed(t, s)
		h.wantLog(t)
		h.add("b")
		s.Wake() // no poll waits, so the WebSocket sends it
		p.wantNothing(t)
		p.send(t, "5")
		p.want(t, "4b")
		h.wantLog(t, "upgraded", "confirm 1") // the answers to polls have arrived
		p.send(t, "4hello")
		p.sendFrame(t, ws.OpBinary, []byte{1, 2})
		h.wantLog(t, "message 4hello", "message b0102")
		startPoll(t, s, "b").want(t, badRequest)
		wantPost(t, s, "c", "4x", badRequest)
		h.wantLog(t) // and the session continues
		h.emit(s, "c")
		p.want(t, "4c")
	})
}

func TestUpgradeInOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		p := startProbe(t, s)
		p.send(t, "2probe", "5", "4a", "4b")
		p.want(t, "3probe")
		h.wantLog(t, "upgraded", "confirm 0", "message 4a", "message 4b")
	})
}

func TestUpgradeWithoutAProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		p := startProbe(t, s)
		h.add("a")
		p.send(t, "5")
		p.want(t, "4a")
		h.wantLog(t, "upgraded", "confirm 0")
	})
}

// Bytes read together with the request are passed with the connection.
func TestUpgradeWithInitialBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		ours, theirs := net.Pipe()
		defer theirs.Close()
		p := newPeer(theirs, clientFrames)
		e := newEncoder(clientFrames)
		e.packet(Ping, []byte("probe"), nil, nil)
		s.ServeProbe(ours, append([]byte(nil), e.buf...), nil)
		e.free()
		p.want(t, "3probe")
		h.wantLog(t)
	})
}

// After the probe, each waiting poll ends after 100 ms.
func TestProbeEndsPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		waiting := startWaiting(t, s, "a")
		p := startProbe(t, s)
		time.Sleep(time.Second)
		waiting.wantWaiting(t) // there was no probe yet
		p.send(t, "2probe")
		p.want(t, "3probe")
		until(t, noopDelay, func() { waiting.wantWaiting(t) })
		waiting.want(t, "200 6")
		for _, id := range []string{"b", "c"} {
			time.Sleep(30 * time.Millisecond)
			again := startPoll(t, s, id)
			until(t, noopDelay, func() { again.wantWaiting(t) })
			again.want(t, "200 6")
		}
		h.add("x") // polling still delivers messages
		startPoll(t, s, "d").want(t, "200 4x")
		wantPost(t, s, "e", "4y", okAnswer)
		h.wantLog(t, "message 4y")
		p.send(t, "5")
		h.wantLog(t, "upgraded", "confirm 1")
	})
}

// A NOOP does not end a poll that lingers with something to send.
func TestProbeLetsAPollLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		startProbed(t, s)
		waiting := startPoll(t, s, "a")
		time.Sleep(noopDelay - pollLinger/2)
		h.emit(s, "x")
		waiting.want(t, "200 4x")
		again := startPoll(t, s, "b")
		again.want(t, "200 6")
	})
}

// If there is nothing to send after all, the NOOP still comes.
func TestProbeAfterVainLingering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		startProbed(t, s)
		waiting := startPoll(t, s, "a")
		time.Sleep(noopDelay - pollLinger/2)
		h.emit(s, "x")
		h.mu.Lock()
		h.out = nil
		h.mu.Unlock()
		waiting.want(t, "200 6")
	})
}

func TestWaitingPollAtUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		waiting := startWaiting(t, s, "a")
		p := startProbe(t, s)
		p.send(t, "2probe", "5")
		p.want(t, "3probe")
		waiting.want(t, badRequest)
		h.wantLog(t, "upgraded", "confirm 0")
		h.emit(s, "x")
		p.want(t, "4x")
	})
}

func TestLingeringPollAtUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		waiting := startWaiting(t, s, "a")
		h.emit(s, "x")
		p := startProbe(t, s)
		p.send(t, "2probe", "5")
		p.want(t, "3probe", "4x")
		waiting.want(t, badRequest)
	})
}

func TestWrongPacketOnAProbe(t *testing.T) {
	tests := []struct {
		name   string
		probed bool
		send   func(t *testing.T, p *wsPeer)
		want   string
	}{
		{"another ping", false, func(t *testing.T, p *wsPeer) { p.send(t, "2foo") }, "close:"},
		{"a message", false, func(t *testing.T, p *wsPeer) { p.send(t, "40") }, "close:"},
		{"a message after the probe", true, func(t *testing.T, p *wsPeer) { p.send(t, "40") }, "close:"},
		{"not a packet", false, func(t *testing.T, p *wsPeer) { p.send(t, "abc") }, "close:"},
		{"empty", true, func(t *testing.T, p *wsPeer) { p.send(t, "") }, "close:"},
		{"binary", true, func(t *testing.T, p *wsPeer) { p.sendFrame(t, ws.OpBinary, []byte("5")) }, "close:"},
		{"broken frame", true, func(t *testing.T, p *wsPeer) { p.writeBytes(t, []byte{0xff, 0xff}) }, "close:1002"},
		{"close", true, func(t *testing.T, p *wsPeer) { p.sendFrame(t, ws.OpClose, ws.NewCloseFrameBody(1000, "")) }, "close:1000"},
		{"its end", true, func(_ *testing.T, p *wsPeer) { p.conn.Close() }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, h := openPolling(t, testOptions)
				p := startProbe(t, s)
				if tt.probed {
					p.send(t, "2probe")
					p.want(t, "3probe")
				}
				tt.send(t, p)
				if tt.want != "" {
					p.want(t, tt.want, "EOF")
				}
				synctest.Wait()
				waiting := startPoll(t, s, "a")
				time.Sleep(time.Second)
				waiting.wantWaiting(t) // the NOOP timer has stopped
				h.emit(s, "x")
				waiting.want(t, "200 4x")
				h.wantLog(t)

				p = startProbe(t, s) // a second attempt
				p.send(t, "2probe", "5")
				p.want(t, "3probe")
				h.wantLog(t, "upgraded", "confirm 1")
			})
		})
	}
}

func TestUpgradeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		p := startProbed(t, s)
		until(t, testOptions.UpgradeTimeout, func() { p.wantNothing(t) })
		p.want(t, "close:", "EOF")
		h.wantLog(t)
		h.add("x")
		startPoll(t, s, "a").want(t, "200 4x")
	})
}

func TestSecondWebSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		first := startProbed(t, s)
		second := startProbe(t, s)
		second.want(t, "close:", "EOF")
		first.wantNothing(t)
		first.send(t, "5", "4x")
		h.wantLog(t, "upgraded", "confirm 0", "message 4x")
		third := startProbe(t, s)
		third.want(t, "close:", "EOF")
		first.wantNothing(t)
		h.wantLog(t)
	})
}

func TestProbeNotOffered(t *testing.T) {
	opts := testOptions
	opts.Upgrades = false
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, opts)
		startProbe(t, s).want(t, "close:", "EOF")
		h.wantLog(t)
	})
}

// A ping that no poll took is sent over the WebSocket, and confirms what precedes it there.
func TestQueuedPingMovesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		time.Sleep(25 * time.Second)
		synctest.Wait()
		h.add("x")
		p := startProbe(t, s)
		p.send(t, "5")
		p.want(t, "2", "4x")
		h.wantLog(t, "upgraded", "confirm 0")
		p.send(t, "3")
		h.wantLog(t, "confirm 0")
		time.Sleep(25 * time.Second)
		p.want(t, "2")
	})
}

// The pong of a polled ping may come over the WebSocket.
func TestPolledPingIsAnsweredAfterTheUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		time.Sleep(25 * time.Second)
		startPoll(t, s, "a").want(t, "200 2")
		p := startProbe(t, s)
		p.send(t, "2probe", "5", "3")
		p.want(t, "3probe")
		h.wantLog(t, "upgraded", "confirm 0", "confirm 0")
		until(t, 25*time.Second, func() { p.wantNothing(t) })
		p.want(t, "2")
	})
}

func TestPauseMovesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		s.Pause()
		p := startProbe(t, s)
		p.send(t, "5")
		h.wantLog(t, "upgraded", "confirm 0")
		written := make(chan struct{})
		go func() { // a write to a pipe blocks until it is read
			defer close(written)
			p.send(t, "4x")
		}()
		h.wantLog(t)
		s.Resume()
		<-written
		h.wantLog(t, "message 4x")
	})
}

func TestSocketEndsWhileProbed(t *testing.T) {
	for _, probed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s, h := openPolling(t, testOptions)
			p := startProbe(t, s)
			if probed {
				p.send(t, "2probe")
				p.want(t, "3probe")
			}
			probe := s.probe
			s.Abort()
			p.want(t, "close:", "EOF")
			h.wantLog(t, "closed: forced close")
			if probe.timer.Stop() {
				t.Error("the upgrade timer still runs")
			}
		})
	}
}

// A client may upgrade while the Socket closes; the WebSocket delivers the rest.
func TestUpgradeWhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		p := startProbed(t, s)
		h.add("x")
		s.Close()
		p.send(t, "5")
		p.want(t, "4x", "close:", "EOF")
		h.wantLog(t, "upgraded", "confirm 0", "closed: forced close")
	})
}

func TestEndAfterUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h, p := upgraded(t)
		p.conn.Close()
		h.wantLog(t, "closed: transport close")
	})
}

// A client may end, or be moved, after its request for a WebSocket has found the Socket: the
// request goes where the client is.
func TestProbeOfAnEndedSocket(t *testing.T) {
	tests := map[string]func(s *Socket){
		"closed":   func(s *Socket) { s.Abort() },
		"detached": func(s *Socket) { s.Input(func() { s.Detach(nil) }) },
	}
	for name, end := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := openPolling(t, testOptions)
				end(s)
				ours, theirs := net.Pipe()
				defer theirs.Close()
				if s.ServeProbe(ours, nil, []byte("answer")) {
					t.Error("an ended Socket took a probe")
				}
				go ours.Write([]byte("x")) //nolint:errcheck // seen by the reader
				var b [1]byte
				if _, err := theirs.Read(b[:]); err != nil || b[0] != 'x' {
					t.Errorf("the connection was used: %q, %v", b, err)
				}
				ours.Close()
			})
		})
	}
}
