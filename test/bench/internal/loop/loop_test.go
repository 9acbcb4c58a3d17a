//go:build linux

package loop

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"
)

// echo returns what it gets; the other fields are the dialling side's.
type echo struct {
	got    []byte
	opened int
	err    error
	hello  []byte
	answer bool
}

func (e *echo) Opened(c *Conn) {
	e.opened++
	c.Write(e.hello)
}

func (e *echo) Data(c *Conn, data []byte) (int, error) {
	if e.answer {
		c.Write(data)
		return len(data), nil
	}
	e.got = append(e.got, data...)
	return len(data), nil
}

func (e *echo) Closed(_ *Conn, err error) { e.err = err }

func newLoop(t *testing.T) *Loop {
	t.Helper()
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func listen(t *testing.T, l *Loop, accept func(*Conn) Handler) netip.AddrPort {
	t.Helper()
	port, err := l.Listen(accept)
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
}

func run(t *testing.T, l *Loop, done func() bool) {
	t.Helper()
	if err := l.Run(t.Context(), 30*time.Second, done); err != nil {
		t.Fatalf("Run: %v", err)
	}
}

func TestMoreThanTheKernelTakesArrives(t *testing.T) {
	l := newLoop(t)
	addr := listen(t, l, func(*Conn) Handler { return &echo{answer: true} })
	h := &echo{hello: bytes.Repeat([]byte("0123456789"), 2_000_000)}
	c, err := l.Dial(addr, h)
	if err != nil {
		t.Fatal(err)
	}
	run(t, l, func() bool { return len(h.got) >= len(h.hello) })
	if !bytes.Equal(h.got, h.hello) || h.opened != 1 || c.Unsent() != 0 {
		t.Errorf("%d bytes came back, %d opened, %d unsent; want the %d that were sent, 1, 0",
			len(h.got), h.opened, c.Unsent(), len(h.hello))
	}
}

// lines uses up whole lines only.
type lines struct {
	echo
	calls [][]byte
}

func (h *lines) Data(_ *Conn, data []byte) (int, error) {
	h.calls = append(h.calls, bytes.Clone(data))
	if bytes.HasPrefix(data, []byte("bad")) {
		return 0, errors.New("bad line")
	}
	return bytes.LastIndexByte(data, '\n') + 1, nil
}

func TestUnusedDataComesAgain(t *testing.T) {
	l := newLoop(t)
	var accepted lines
	addr := listen(t, l, func(*Conn) Handler { return &accepted })
	h := &echo{hello: []byte("one\ntw")}
	c, err := l.Dial(addr, h)
	if err != nil {
		t.Fatal(err)
	}
	run(t, l, func() bool { return len(accepted.calls) == 1 })
	c.Write([]byte("o\n"))
	run(t, l, func() bool { return len(accepted.calls) == 2 })
	if got := string(accepted.calls[1]); got != "two\n" {
		t.Errorf("second call has %q, want %q", got, "two\n")
	}
	c.Write([]byte("bad"))
	run(t, l, func() bool { return h.err != nil })
	if accepted.err == nil || !errors.Is(h.err, io.EOF) {
		t.Errorf("after an error of the handler: it was told %v, its peer %v; want the error, EOF", accepted.err, h.err)
	}
}

func TestRefusedConnectionAndCut(t *testing.T) {
	l := newLoop(t)
	var accepted echo
	addr := listen(t, l, func(*Conn) Handler { return &accepted })
	h := &echo{}
	c, err := l.Dial(addr, h)
	if err != nil {
		t.Fatal(err)
	}
	run(t, l, func() bool { return h.opened == 1 })
	c.Cut()
	run(t, l, func() bool { return accepted.err != nil })
	if h.err != nil || errors.Is(accepted.err, io.EOF) {
		t.Errorf("Cut: the peer was told %v, the handler %v; want a reset, nothing", accepted.err, h.err)
	}

	refused := &echo{}
	if _, err := l.Dial(netip.AddrPortFrom(addr.Addr(), 1), refused); err != nil {
		t.Fatal(err)
	}
	run(t, l, func() bool { return refused.err != nil })
	if refused.opened != 0 {
		t.Errorf("a refused connection was opened")
	}
}

func TestRunEnds(t *testing.T) {
	l := newLoop(t)
	never := func() bool { return false }
	ticks := 0
	l.Tick, l.TickEvery = func(time.Time) { ticks++ }, time.Millisecond
	run(t, l, func() bool { return ticks > 2 })
	if err := l.Run(t.Context(), 20*time.Millisecond, never); !errors.Is(err, ErrTimeout) {
		t.Errorf("Run = %v, want ErrTimeout", err)
	}
	l.Tick = nil

	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(5*time.Millisecond, cancel)
	if err := l.Run(ctx, 0, never); !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want context.Canceled", err)
	}

	posted := false
	time.AfterFunc(5*time.Millisecond, func() { l.Post(func() { posted = true }) })
	run(t, l, func() bool { return posted })
}
