package engineio

import (
	"bytes"
	"io"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/handover"
	"github.com/holdfast/holdfast/internal/netpoll"
)

// handOverConn does what another process would do with a Conn. The old one stays frozen.
func handOverConn(t *testing.T, d *Dialer, c *Conn, elapsed time.Duration) *Conn {
	t.Helper()
	if !c.Freeze() {
		t.Fatal("the Conn cannot be frozen")
	}
	netpoll.Barrier()
	var l handover.Link
	if !c.Export(&l) {
		t.Fatal("the Conn cannot be exported")
	}
	var data bytes.Buffer
	w := handover.NewWriter(&data)
	w.Process(&handover.Process{})
	fd, err := syscall.Dup(l.FD) // in one process both would close the same number
	if err != nil {
		t.Fatal(err)
	}
	l.FD = fd
	w.Link(&l)
	if err := w.End(); err != nil {
		t.Fatal(err)
	}
	var next *Conn
	err = handover.Read(data.Bytes(), handover.Handler{Link: func(l *handover.Link) error {
		var err error
		next, err = d.Restore(l, elapsed)
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// beginRestored starts a restored Conn, which the end of the test closes.
func beginRestored(t *testing.T, c *Conn, l *connLog) {
	t.Helper()
	c.StartRestored(l)
	t.Cleanup(c.Close)
}

// The server's frames reach the handler whole and once, wherever a handover cuts them.
func TestConnHandoverAtEachByte(t *testing.T) {
	if os.Getenv("TEST_EVENT_LOOP") == "off" {
		t.Skip("nothing can be handed over")
	}
	fragment := func(op ws.OpCode, fin bool, text string) []byte {
		b := wire(fromServer(op, text))
		if !fin {
			b[0] &^= finBit
		}
		return b
	}
	frames := slices.Concat(
		wire(fromServer(ws.OpText, "4a"), fromServer(ws.OpPing, "p"), fromServer(ws.OpBinary, "\x01\x02")),
		fragment(ws.OpText, false, "4be"), fragment(ws.OpContinuation, false, "gi"),
		wire(fromServer(ws.OpPing, "q")), fragment(ws.OpContinuation, true, "n"),
		wire(fromServer(ws.OpText, "2"), fromServer(ws.OpText, "4"+strings.Repeat("c", 130))),
	)
	s := newServer(t, false)
	for cut := range len(frames) + 1 {
		c, p := dialSocket(t, s)
		l := begin(t, c)
		p.writeBytes(t, frames[:cut])
		if cut%3 == 0 {
			netpoll.Barrier() // some of it may have been read
		}
		next := handOverConn(t, s.dialer, c, 0)
		p.writeBytes(t, frames[cut:])
		beginRestored(t, next, l)
		l.want(t, "4a", "b0102", "4begin", "4"+strings.Repeat("c", 130))
		next.Send([]byte("up"), nil)
		next.Flush()
		p.want(t, "pong:p", "pong:q", "3", "4up")
		if t.Failed() {
			t.Fatalf("cut at byte %d", cut)
		}
	}
}

// A restored Conn whose last session ends before it is started tells its handler that it has ended.
func TestRestoredConnClosedBeforeItStarts(t *testing.T) {
	if os.Getenv("TEST_EVENT_LOOP") == "off" {
		t.Skip("nothing can be handed over")
	}
	s := newServer(t, false)
	c, _ := dialSocket(t, s)
	l := begin(t, c)
	next := handOverConn(t, s.dialer, c, 0)
	next.Close()
	beginRestored(t, next, l)
	l.wantClosed(t, ErrClosed)
}

// After Thaw a Conn continues, and what was sent meanwhile goes out.
func TestConnThaw(t *testing.T) {
	if os.Getenv("TEST_EVENT_LOOP") == "off" {
		t.Skip("nothing can be frozen")
	}
	s := newServer(t, false)
	c, p := dialSocket(t, s)
	l := begin(t, c)
	if !c.Freeze() {
		t.Fatal("the Conn cannot be frozen")
	}
	netpoll.Barrier()
	p.send(t, "4a", "2")
	c.Send([]byte("b"), nil)
	c.Flush()
	l.want(t)
	c.Thaw()
	c.Thaw() // has no effect
	l.want(t, "4a")
	p.want(t, "4b", "3")
	// A Conn that was closed meanwhile ends.
	if !c.Freeze() {
		t.Fatal("the Conn cannot be frozen again")
	}
	c.Close()
	if c.Export(new(handover.Link)) {
		t.Error("exported after its end")
	}
	c.Thaw()
	if _, err := io.ReadAll(p.conn); err != nil {
		t.Error(err)
	}
}

func TestConnsThatCannotBeFrozen(t *testing.T) {
	s := newServer(t, false)
	polling := dialPolling(t, s, nil)
	begin(t, polling)
	if polling.Freeze() {
		t.Error("a polling Conn was frozen")
	}
	s.endPolls(t)
	secure := newServer(t, true)
	c, _ := dialSocket(t, secure)
	begin(t, c)
	if c.Freeze() {
		t.Error("a Conn under TLS was frozen")
	}
}

// The heartbeat continues where it was: the time that passed counts.
func TestHeartbeatAfterAHandover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			since, elapsed, dies time.Duration
		}{
			{0, 0, 45 * time.Second},
			{20 * time.Second, 5 * time.Second, 20 * time.Second},
			{44 * time.Second, 10 * time.Second, frozenRetry}, // it may have pinged since
		} {
			l := &handover.Link{SincePing: tt.since, Handshake: handover.Handshake{PingInterval: 25000, PingTimeout: 20000}}
			c := restoredPipe(t, l, tt.elapsed)
			log := newConnLog()
			c.StartRestored(log)
			time.Sleep(tt.dies - time.Nanosecond)
			synctest.Wait()
			if c.state.ended() {
				t.Errorf("%+v: it ended early", tt)
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			log.wantClosed(t, ErrSilent)
		}
	})
}

// connDecided says what a handover does with each field. A new field needs a decision here, and in
// Export and Restore unless the new Conn does not need it.
var connDecided = map[reflect.Type]string{
	reflect.TypeFor[ponger]():      "handed over: lastSign lastPong sentEarly mayBeUnread; built anew: timer clock earlyTimer takenAtCheck frozen",
	reflect.TypeFor[frameReader](): "handed over: partial message messageOp fragments; built anew: masked outOfSync maxBytes",
}

func TestEveryFieldIsDecidedOn(t *testing.T) {
	for typ, text := range connDecided {
		words := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" :;", r) })
		for field := range typ.Fields() {
			if !slices.Contains(words, field.Name) {
				t.Errorf("%v.%s: what becomes of it in a handover?", typ, field.Name)
			}
		}
	}
}

// restoredPipe returns a restored Conn over a net.Pipe, for use in a bubble.
func restoredPipe(t *testing.T, l *handover.Link, elapsed time.Duration) *Conn {
	t.Helper()
	c, err := new(Dialer).restored(l, elapsed)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, theirs) }() // ends with the Conn
	t.Cleanup(func() { theirs.Close() })
	c.begin(netpoll.New(ours, (*wsLink)(c)), nil)
	return c
}
