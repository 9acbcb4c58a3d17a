package sioserver

import (
	"context"
	"errors"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
)

// pipes is a listener whose connections are net.Pipes: those count as blocked
// in a synctest bubble.
type pipes struct {
	accept chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case nc := <-p.accept:
		return nc, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.accept <- server:
		return client, nil
	case <-p.closed:
		return nil, errors.New("listener is closed")
	}
}

// inBubble runs a test against a server in virtual time.
func inBubble(t *testing.T, opts Options, test func(t *testing.T, f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := New(opts)
		p := &pipes{make(chan net.Conn), make(chan struct{})}
		hs := &http.Server{Handler: s}
		go func() { _ = hs.Serve(p) }() // ends with hs.Close
		tr := &http.Transport{DialContext: p.dial}
		defer func() {
			s.Close()
			tr.CloseIdleConnections()
			_ = hs.Close() // closes what it serves
		}()
		test(t, &fixture{
			Server: s, t: t, base: "http://pipes/socket.io/",
			http: &http.Client{Transport: tr}, dial: p.dial, wait: 24 * time.Hour,
		})
	})
}

// at fails unless d has passed since start, to the nanosecond.
func at(t *testing.T, what string, start time.Time, d time.Duration) {
	t.Helper()
	if got := time.Since(start); got != d {
		t.Errorf("%s after %v, want %v", what, got, d)
	}
}

func TestHeartbeatOverWebSocket(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, f *fixture) {
		reasons := watch(f)
		start := time.Now()
		w := f.connectWS()
		w.want("2")
		at(t, "first ping", start, 25*time.Second)

		time.Sleep(19 * time.Second) // in time
		start = time.Now()
		w.send("3")
		w.want("2")
		at(t, "second ping", start, 25*time.Second)

		time.Sleep(10 * time.Second)
		start = time.Now()
		w.send(`42["any"]`) // postpones the end, as with engine.io 6.2
		w.want("close 0")
		at(t, "the end", start, 45*time.Second)
		w.frame(ws.NewCloseFrame(nil))
		w.want("end")
		if got := <-reasons; got != "ping timeout" {
			t.Errorf("reason %q, want ping timeout", got)
		}
	})
}

func TestPingTimeoutOverWebSocket(t *testing.T) {
	inBubble(t, Options{PingInterval: time.Second, PingTimeout: 3 * time.Second}, func(t *testing.T, f *fixture) {
		start := time.Now()
		w := f.connectWS()
		w.want("2")
		at(t, "ping", start, time.Second)
		w.want("close 0")
		at(t, "the end", start, 4*time.Second)
		w.want("end")
		at(t, "end of an unanswered close", start, 4*time.Second+closeGrace)
	})
}

func TestHeartbeatOverPolling(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, f *fixture) {
		reasons := watch(f)
		start := time.Now()
		sid := f.open()
		f.post(sid, "40")
		f.do("GET", sid, "")
		f.wantPoll(sid, "2")
		at(t, "first ping", start, 25*time.Second)
		start = time.Now()
		f.post(sid, "3")
		f.wantPoll(sid, "2")
		at(t, "second ping", start, 25*time.Second)
		start = time.Now()
		f.wantPoll(sid, "1")
		at(t, "the end", start, 20*time.Second)
		if got := <-reasons; got != "ping timeout" {
			t.Errorf("reason %q, want ping timeout", got)
		}
		f.wantEnded(sid)
	})
}

func TestConnectTimeout(t *testing.T) {
	inBubble(t, Options{PingInterval: time.Hour}, func(t *testing.T, f *fixture) {
		start := time.Now()
		w, connected := f.dialWS(""), f.connectWS()
		w.wantPrefix("0")
		w.wantClose()
		at(t, "the end", start, 45*time.Second)
		f.Emit("still", "there")
		connected.want(`42["still","there"]`)
	})
}

func TestUpgradeTimeout(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, f *fixture) {
		sid := f.open()
		start := time.Now()
		w := f.dialWS(sid)
		w.send("2probe")
		w.want("3probe")
		f.wantPoll(sid, "6")
		at(t, "noop", start, noopInterval)
		w.wantClose()
		at(t, "the end", start, 10*time.Second)
		f.wantPoll(sid, "2") // polling continues
		at(t, "ping", start, 25*time.Second)
	})
}

func TestClosingSessionWaitsForAPoll(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, f *fixture) {
		sid := f.open()
		f.post(sid, "4abc")
		time.Sleep(pollGrace - time.Nanosecond)
		synctest.Wait()
		if f.Len() != 1 {
			t.Error("the session ended too early")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if f.Len() != 0 {
			t.Error("the session has not ended")
		}
	})
}
