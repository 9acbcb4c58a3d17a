package proxy

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/reason"
)

type input struct{ calls []string }

func (i *input) Pause()  { i.calls = append(i.calls, "pause") }
func (i *input) Resume() { i.calls = append(i.calls, "resume") }

func TestInputIsResumedWhenTheLastReasonIsGone(t *testing.T) {
	var p pauses
	in := &input{}
	p.add(in, congested)
	p.add(in, redialing)
	p.add(in, congested) // because of another link
	p.remove(in, redialing)
	p.remove(in, congested)
	if !slices.Equal(in.calls, []string{"pause"}) || p.has(redialing) || !p.has(congested) {
		t.Errorf("with one reason left: %v", in.calls)
	}
	p.remove(in, congested)
	p.add(in, redialing)
	if want := []string{"pause", "resume", "pause"}; !slices.Equal(in.calls, want) {
		t.Errorf("%v, want %v", in.calls, want)
	}
}

// congest sends more on the links than their servers read, and makes the client notice.
func congest(r *rig, c *client, links ...*link) {
	r.t.Helper()
	for _, l := range links {
		for range 12 { // more than kernel buffers hold
			l.conn.Send([]byte(`2/nowhere,["`+strings.Repeat("x", 1<<20)+`"]`), nil)
		}
	}
	c.sock.Input(func() {
		for _, l := range links {
			c.receiver.markForFlush(l)
		}
	})
	for _, l := range links {
		l.mu.Lock()
		noted := slices.Contains(l.congested, c)
		l.mu.Unlock()
		if !noted {
			r.t.Fatal("the server reads everything, so the link is not congested")
		}
	}
}

func isCongested(l *link) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.congested) > 0
}

// readUntil reads until the message arrives, and sends the value that flag has then.
func (p *peer) readUntil(message string, flag *atomic.Bool) <-chan bool {
	found := make(chan bool, 1)
	go func() { // ends with the message or the connection
		defer close(found)
		for {
			switch got, err := p.next(); {
			case err != nil:
				return
			case got == message:
				found <- flag.Load()
				return
			}
		}
	}()
	return found
}

// When one link is drained, a client with another congested link stays paused.
func TestClientStaysPausedForItsOtherLink(t *testing.T) {
	r, s := newScriptedRig(t, nil)
	c, first, second := withTwoLinks(r, s)
	first.send(`40/b,{"sid":"b1"}`)
	c.want("40/b,")
	cl := r.byOrder(1)
	la, lb := linkOf(cl.attached("/a").Session()), linkOf(cl.attached("/b").Session())
	congest(r, cl, la, lb)
	c.send(`42/b,["later"]`)
	var drained atomic.Bool
	arrived := first.readUntil(`42/b,["later"]`, &drained)
	r.await("the first link to be drained", func() bool { return !isCongested(lb) })
	select {
	case <-arrived:
		t.Fatal("the client is read although its other link is congested")
	case <-time.After(100 * time.Millisecond): // the other server reads nothing, so no event ends this wait
	}
	drained.Store(true)
	second.readUntil("", &drained)
	if !<-arrived {
		t.Error("the client was read before its other link was drained")
	}
}

// When another primary link was dialled, a client with a congested link stays paused.
func TestClientStaysPausedAfterItsPrimaryLinkWasDialled(t *testing.T) {
	r, s := newScriptedRig(t, nil)
	c := r.dial()
	first := s.accept()
	c.send("40/a,", "40/b,")
	first.want("40/a,", "40/b,")
	first.send(`40/a,{"sid":"a1"}`, `40/b,{"sid":"b1"}`)
	c.want("40/a,", "40/b,")
	c.send("41/a,")
	first.want("41/a,")
	cl := r.byOrder(1)
	lb := linkOf(cl.attached("/b").Session())
	congest(r, cl, lb)
	cl.sock.Input(func() { cl.Message([]byte("0/a,"), false) })
	second := s.accept()
	second.want("40/a,")
	second.send(`40/a,{"sid":"a2"}`)
	c.want(`40/a,{"sid":"a2"`)
	c.send(`42/a,["later"]`)
	var drained atomic.Bool
	arrived := second.readUntil(`42/a,["later"]`, &drained)
	select {
	case <-arrived:
		t.Fatal("the client is read although one of its links is congested")
	case <-time.After(100 * time.Millisecond): // as above
	}
	drained.Store(true)
	first.readUntil("", &drained)
	if !<-arrived {
		t.Error("the client was read before its link was drained")
	}
}

// When a client is gone, the dial of another primary link is cancelled.
func TestDialEndsWithItsClient(t *testing.T) {
	r, _, upstream := redialingRig(t, nil)
	r.byOrder(1).abort(reason.Takeover)
	wantCancelled(t, upstream)
	if strings.Contains(r.logs.String(), "further upstream handshake failed") {
		t.Error("the cancelled dial is logged as a failure")
	}
}

// A client that does not read pauses every link with messages in its queue.
func TestAllLinksOfWaitingMessagesArePaused(t *testing.T) {
	r, s := newScriptedRig(t, nil)
	withTwoLinks(r, s)
	cl := r.byOrder(1)
	r.proxy.conns.mu.Lock()
	links := make([]*link, 0, 2)
	for l := range r.proxy.conns.links {
		links = append(links, l)
	}
	r.proxy.conns.mu.Unlock()
	holds := func() (n []int) {
		for _, l := range links {
			l.pauseMu.Lock()
			n = append(n, l.pauses)
			l.pauseMu.Unlock()
		}
		return n
	}
	for range 3 { // once per link, whatever the number of messages
		for _, l := range links {
			cl.sender.relay(make([]byte, cl.sender.window), false, l)
		}
	}
	if got := holds(); !slices.Equal(got, []int{1, 1}) {
		t.Errorf("the links are paused %v times, want once each", got)
	}
	cl.sender.close()
	if got := holds(); !slices.Equal(got, []int{0, 0}) {
		t.Errorf("after close the links are paused %v times, want none", got)
	}
}
