package session_test

import (
	"fmt"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/session"
)

// link is an upstream connection that does nothing.
type link struct{}

func (link) SessionsClosed([]*session.Session, reason.Reason)             {}
func (link) SetReadPaused(bool)                                           {}
func (link) SessionParked(*session.Session, reason.Reason, time.Duration) {}
func (link) SessionResumed(*session.Session, time.Duration, int)          {}

// unseen is an Observer that does nothing.
type unseen struct{}

func (unseen) Parked(*session.Session, reason.Reason)                     {}
func (unseen) Closed(*session.Session, reason.Reason, session.State, int) {}
func (unseen) Panicked(any, []*session.Session)                           {}
func (unseen) Dropped(session.Retention, int)                             {}
func (unseen) Poisoned(*session.Session, *buffer.Entry)                   {}

// client is a client's connection. It remembers the offset of its last event.
type client struct {
	handshake uint64
	offset    string
}

func (c *client) Handshake() uint64 { return c.handshake }

func (c *client) Emit(p *buffer.Entry, offset session.Offset, replayed bool) bool {
	fmt.Printf("client %d: %s, replayed %v\n", c.handshake, p.Data(), replayed)
	c.offset = string(offset.AppendTo(nil))
	return true
}

// A client loses its connection, misses an event, and comes back for it.
func ExampleRegistry_Resume() {
	limits := session.Limits{MaxPackets: 100, MaxBytes: 1 << 20, WindowBytes: 1 << 18}
	registry := session.NewRegistry(limits, 1000, buffer.NewBudget(64<<20), unseen{})

	first := &client{handshake: 1}
	cursor := registry.New(link{}, "/", first, true)
	s := cursor.Session()
	send := func(event string) {
		if _, err := s.Append(&buffer.Packet{Kind: buffer.WithOffset, Data: []byte(event)}); err != nil {
			fmt.Println(err)
		}
	}
	send(`2["a"]`)
	cursor.Read(1, first)

	registry.Park([]*session.Cursor{cursor}, time.Minute, "transport_close")
	send(`2["b"]`)

	second := &client{handshake: 2}
	r := registry.Resume(session.Claim{PID: s.PID(), Namespace: "/", Offset: first.offset}, second)
	fmt.Println("missed", r.Missed)
	r.Cursor.Read(r.Missed, second)
	registry.Close(s, reason.ClientDisconnect)
	// Output:
	// client 1: 2["a"], replayed false
	// missed 1
	// client 2: 2["b"], replayed true
}
