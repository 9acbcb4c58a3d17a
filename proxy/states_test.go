package proxy

import (
	"slices"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/socketio"
)

func TestPrimaryStates(t *testing.T) {
	var p primary
	p.setLazy()
	if !p.is(primaryLazy) {
		t.Fatal("not lazy")
	}
	_, cancel, ok := p.beginDial(time.Minute)
	if !ok || !p.is(primaryDialing) {
		t.Fatal("not dialing")
	}
	defer cancel()
	if old, ok := p.endDial(); old != nil || !ok {
		t.Fatal("the dial was not ended")
	}
	l := &link{}
	if !p.set(l) || p.get() != l || p.set(&link{}) {
		t.Fatal("not open, or opened twice")
	}
	l.client = &client{}
	if got := p.takeUnused(); got != l || p.get() != nil || !p.is(primaryNone) {
		t.Fatal("an unused link was not detached")
	}
	ctx, _, _ := p.beginDial(time.Minute)
	if ctx.Err() != nil {
		t.Fatal("the dial is canceled")
	}
	p.close()
	if ctx.Err() == nil {
		t.Error("closing does not cancel the dial")
	}
	if _, ok := p.endDial(); ok {
		t.Error("the dial ended well after the client was closed")
	}
	if _, _, ok := p.beginDial(time.Minute); ok || p.set(l) || !p.is(primaryClosed) {
		t.Error("a closed client got a primary link")
	}
}

func TestNamespacesOfALink(t *testing.T) {
	var s linkSpaces
	connect := func(namespace string) { s.connect(namespace, &connecting{}) }
	connect("/a")
	if s.connectable("/a") || s.waiting("/a") == nil || s.asked != 1 {
		t.Error("/a is not connecting")
	}
	s.move("/a", spaceOpen)
	if s.asked != 0 || s.waiting("/a") != nil || s.byName != nil {
		t.Error("an open namespace is remembered")
	}
	s.ended("/a")
	if !s.connectable("/a") || !s.isLate([]byte("/a")) {
		t.Error("/a has ended, but cannot be connected, or may get late packets")
	}
	connect("/a")
	if !s.isLate([]byte("/a")) {
		t.Error("while /a is connecting again, late packets may pass")
	}
	s.ended("/a") // just as the reply comes
	if s.asked != 1 {
		t.Error("the CONNECT of /a is forgotten")
	}
	s.move("/a", spaceOpen)
	s.move("/a", spaceDisconnected)
	s.move("/a", spaceNew)
	if s.connectable("/a") {
		t.Error("/a was disconnected, and can be connected again")
	}
	for i := range maxEndedNamespaces {
		s.ended(string(rune('A' + i)))
	}
	if s.connectable("/b") {
		t.Error("a worn link takes another CONNECT")
	}
	connect("/c")
	connect("/b")
	if _, names := s.allWaiting(); !slices.Equal(names, []string{"/b", "/c"}) {
		t.Errorf("connecting are %q", names)
	}
}

func TestPhases(t *testing.T) {
	var p phase
	switch {
	case p.stopping(), p.move(phaseServing):
		t.Error("it does not begin with serving")
	case !p.move(phaseLeaving), !p.stopping(), !p.move(phaseServing), p.stopping():
		t.Error("a handover cannot fail")
	case !p.move(phaseLeaving), !p.move(phaseDraining), p.move(phaseServing), !p.is(phaseDraining):
		t.Error("draining is not the end")
	}
}

func TestParserStates(t *testing.T) {
	for message, want := range map[string]parserState{"0": parserSocketIO, `31["late"]`: parserSocketIO, "2[]": parserRaw, "x": parserRaw} {
		if got := parserOf([]byte(message), false); got != want {
			t.Errorf("%q: %d, want %d", message, got, want)
		}
	}
	if parserOf([]byte("0"), true) != parserRaw {
		t.Error("a binary message is a CONNECT")
	}
	p := parserUndecided
	p.move(parserRaw)
	p.move(parserSocketIO)
	if p != parserRaw {
		t.Error("a parser changed")
	}
	p.move(parserClosed)
	p.move(parserRaw)
	if p != parserClosed {
		t.Error("a closed receiver takes messages again")
	}
}

// A binary packet is complete with its last attachment. Large incomplete ones are counted.
func TestAssembler(t *testing.T) {
	total := incomplete{limit: 2 * freeIncompleteBytes}
	var a assembler
	begin := func() {
		p := packet{data: []byte(`52-["x",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]`)}
		if err := p.h.Parse(p.data); err != nil {
			t.Fatal(err)
		}
		a.begin(&p)
	}
	begin()
	if whole, ok := a.add(make([]byte, freeIncompleteBytes), &total); whole != nil || !ok || total.bytes.Load() == 0 {
		t.Fatalf("after one attachment of two: %v, %v, %d bytes counted", whole, ok, total.bytes.Load())
	}
	whole, ok := a.add([]byte("last"), &total)
	if whole == nil || !ok || len(whole.attachments) != 2 || whole.h.Type != socketio.BinaryEvent {
		t.Fatalf("the whole packet: %+v, %v", whole, ok)
	}
	if a.busy() || total.bytes.Load() != 0 {
		t.Errorf("afterwards it waits for more: %v, and %d bytes are counted", a.busy(), total.bytes.Load())
	}
	begin()
	if _, ok := a.add(make([]byte, 3*freeIncompleteBytes), &total); ok {
		t.Error("there is memory for more than the limit")
	}
	a.drop(&total)
	if a.busy() || total.bytes.Load() != 0 {
		t.Errorf("after drop it waits for more: %v, and %d bytes are counted", a.busy(), total.bytes.Load())
	}
}
