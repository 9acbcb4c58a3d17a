//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net/netip"
	"time"

	"github.com/holdfast/holdfast/test/bench/internal/frame"
	"github.com/holdfast/holdfast/test/bench/internal/loop"
)

// generator simulates the clients of one trial. Only the goroutine that runs the
// trial may use it.
type generator struct {
	loop *loop.Loop
	addr netip.AddrPort
	// returnTo replaces addr for clients that were connected before, if it is valid.
	returnTo netip.AddrPort
	wantPID  bool // whether server or proxy must offer recovery
	clients  []*client

	// The expected events, and a callback for each.
	event   byte
	payload []byte
	onEvent func(c *client)

	waiting   []*client // not dialled yet
	dialling  int       // not connected yet
	atOnce    int       // limit of dialling
	connected int
	recovered int    // clients that kept their pid and sid
	received  uint64 // events
	expected  uint64 // events in total
	now       time.Time
	leaving   bool // clients may be closed, and are away then
	failures  int
	failure   error // the first

	out, text []byte // scratch
	random    uint64
}

// errTrial is wrapped by errors that invalidate a trial.
var errTrial = errors.New("refused")

func newGenerator(addr netip.AddrPort, wantPID bool) (*generator, error) {
	l, err := loop.New()
	if err != nil {
		return nil, err
	}
	return &generator{
		loop: l, addr: addr, wantPID: wantPID, random: 0x9e3779b97f4a7c15,
		event: broadcastEvent, onEvent: func(*client) {},
	}, nil
}

func (g *generator) close() { g.loop.Close() }

// mask returns a key for one frame: splitmix64.
func (g *generator) mask() uint32 {
	g.random += 0x9e3779b97f4a7c15
	z := (g.random ^ g.random>>30) * 0xbf58476d1ce4e5b9
	high, low := bits.Mul64(z, 0x94d049bb133111eb)
	return uint32(high ^ low)
}

// fail records a failure. The trial ends with the first one.
func (g *generator) fail(c *client, err error) {
	g.failures++
	if g.failure == nil {
		g.failure = fmt.Errorf("client %d (%v): %w", c.number, c.state, err)
	}
}

// wait runs until done returns true. what describes what it waits for, for errors.
func (g *generator) wait(ctx context.Context, timeout time.Duration, what string, done func() bool) error {
	err := g.loop.Run(ctx, timeout, func() bool { return g.failure != nil || done() })
	if err == nil && g.failure != nil {
		return g.failed(what)
	}
	if errors.Is(err, loop.ErrTimeout) {
		return fmt.Errorf("%w: after %v of %s: %d of %d clients are connected, %d events have arrived", errTrial,
			timeout, what, g.connected, len(g.clients), g.received)
	}
	return err
}

// pause runs for d.
func (g *generator) pause(ctx context.Context, d time.Duration) error {
	err := g.loop.Run(ctx, d, func() bool { return g.failure != nil })
	if err == nil {
		return g.failed("waiting")
	}
	if errors.Is(err, loop.ErrTimeout) {
		return nil
	}
	return err
}

func (g *generator) failed(during string) error {
	more := ""
	if g.failures > 1 {
		more = fmt.Sprintf(" (and %d more)", g.failures-1)
	}
	return fmt.Errorf("%w: while %s: %w%s", errTrial, during, g.failure, more)
}

// receive runs until all expected events have arrived.
func (g *generator) receive(ctx context.Context) error {
	return g.wait(ctx, deliveryTimeout, "receiving", func() bool { return g.received >= g.expected })
}

// deliveryTimeout is how long messages in flight may take.
const deliveryTimeout = 30 * time.Second

// quiet runs a little longer, and checks that no more events arrive than expected.
func (g *generator) quiet(ctx context.Context) error {
	if err := g.pause(ctx, drained); err != nil {
		return err
	}
	if g.received != g.expected {
		return fmt.Errorf("%w: %d events arrived, %d were sent", errTrial, g.received, g.expected)
	}
	return nil
}

// drained is how long no event may arrive at the end of a trial.
const drained = 100 * time.Millisecond

// add adds n clients that are not connected yet.
func (g *generator) add(n int) []*client {
	for range n {
		g.clients = append(g.clients, &client{gen: g, number: len(g.clients), next: 1})
	}
	return g.clients[len(g.clients)-n:]
}

const connectTimeout = 60 * time.Second

// connect connects clients, some of them concurrently, and waits.
func (g *generator) connect(ctx context.Context, clients []*client, atOnce int) error {
	want := g.connected + len(clients)
	g.begin(clients, atOnce)
	return g.wait(ctx, connectTimeout, "connecting", func() bool { return g.connected == want })
}

// begin starts connecting clients.
func (g *generator) begin(clients []*client, atOnce int) {
	g.atOnce = atOnce
	g.waiting = append(g.waiting, clients...)
	g.dial()
}

func (g *generator) dial() {
	for g.dialling < g.atOnce && len(g.waiting) > 0 {
		c := g.waiting[0]
		g.waiting = g.waiting[1:]
		g.dialling++
		c.state = dialling
		addr := g.addr
		if c.pid != "" && g.returnTo.IsValid() {
			addr = g.returnTo
		}
		conn, err := g.loop.Dial(addr, c)
		if err != nil {
			g.fail(c, err)
			return
		}
		c.conn = conn
	}
}

// cut resets the clients' connections.
func (g *generator) cut(clients []*client) {
	for _, c := range clients {
		c.conn.Cut()
		c.state = away
		g.connected--
	}
}

// clientState is the state of a client:
//
//	away -> dialling -> upgrading -> opening -> joining -> connected -> away
type clientState uint8

const (
	away      clientState = iota
	dialling              // TCP
	upgrading             // the WebSocket handshake was sent
	opening               // waits for Engine.IO's open packet
	joining               // CONNECT was sent
	connected
)

func (s clientState) String() string {
	return [...]string{"away", "dialling", "upgrading", "opening", "joining", "connected"}[s]
}

// client is one Socket.IO client with recovery. It implements loop.Handler.
type client struct {
	gen    *generator
	number int
	conn   *loop.Conn
	state  clientState
	key    string
	sid    string
	pid    string
	offset []byte

	next   uint64    // number of the next expected event
	sent   uint64    // events
	sentAt time.Time // the last of them
}

// Opened implements loop.Handler.
func (c *client) Opened(conn *loop.Conn) {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	c.key = base64.StdEncoding.EncodeToString(b[:])
	c.state = upgrading
	conn.Write([]byte(frame.Request(c.gen.addr.String(), "/socket.io/", c.key)))
}

// Closed implements loop.Handler. Proxies and servers must not close connections.
func (c *client) Closed(_ *loop.Conn, err error) {
	if c.gen.leaving && c.state == connected {
		c.state = away
		c.gen.connected--
		return
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("disconnected")
	}
	c.gen.fail(c, err)
}

// Data implements loop.Handler. All responses to one read go out in one write, as
// separate frames.
func (c *client) Data(conn *loop.Conn, data []byte) (used int, err error) {
	g := c.gen
	g.out = g.out[:0]
	g.now = time.Now()
	if c.state == upgrading {
		if used, err = frame.ParseResponse(data, c.key); used == 0 || err != nil {
			return 0, err
		}
		c.state = opening
	}
	n, err := frame.ParseAll(data[used:], c.frame)
	used += n
	if err != nil {
		return used, err
	}
	if len(g.out) > 0 {
		conn.Write(g.out)
	}
	return used, nil
}

func (c *client) frame(f frame.Frame) error {
	switch {
	case f.Opcode == frame.Close:
		return errors.New("disconnected by a close frame")
	case f.Opcode == frame.Ping:
		c.gen.out = frame.AppendClient(c.gen.out, frame.Pong, f.Payload, c.gen.mask())
		return nil
	case f.Opcode == frame.Text && len(f.Payload) > 0:
		return c.packet(f.Payload)
	}
	return fmt.Errorf("%w: opcode %d, %.60q", errProtocol, f.Opcode, f.Payload)
}

// packet handles an Engine.IO packet.
func (c *client) packet(p []byte) error {
	switch {
	case p[0] == '4' && len(p) > 1:
		return c.message(p[1:])
	case p[0] == '0' && c.state == opening:
		c.state = joining
		c.say(c.connectPacket())
		return nil
	case p[0] == '2':
		c.say([]byte("3"))
		return nil
	case p[0] == '6':
		return nil
	}
	return fmt.Errorf("%w: %.60q", errProtocol, p)
}

// connectPacket requests recovery if it has a pid, as socket.io-client does.
func (c *client) connectPacket() []byte {
	switch {
	case c.pid == "":
		return []byte("40")
	case len(c.offset) == 0:
		return fmt.Appendf(nil, `40{"pid":%q}`, c.pid)
	}
	return fmt.Appendf(nil, `40{"pid":%q,"offset":%q}`, c.pid, c.offset)
}

// say adds a message to Data's next write.
func (c *client) say(text []byte) {
	c.gen.out = frame.AppendClient(c.gen.out, frame.Text, text, c.gen.mask())
}

// message handles a Socket.IO packet.
func (c *client) message(p []byte) error {
	switch {
	// Socket.IO's own recovery sends missed events before its reply to CONNECT.
	case p[0] == '2' && (c.state == connected || c.state == joining && c.pid != ""):
		return c.receive(p[1:])
	case p[0] == '0' && c.state == joining:
		return c.joined(p[1:])
	}
	return fmt.Errorf("%w: %.60q", errProtocol, p)
}

func (c *client) joined(reply []byte) error {
	var r struct{ SID, PID string }
	if err := json.Unmarshal(reply, &r); err != nil || r.SID == "" {
		return fmt.Errorf("%w: CONNECT was answered by %.60q", errProtocol, reply)
	}
	g := c.gen
	if g.wantPID != (r.PID != "") {
		return fmt.Errorf("the CONNECT reply has the pid %q, but recovery wanted is %v", r.PID, g.wantPID)
	}
	if c.pid != "" && c.pid == r.PID && c.sid == r.SID {
		g.recovered++
	}
	c.sid, c.pid = r.SID, r.PID
	c.state = connected
	g.connected++
	g.dialling--
	g.dial()
	return nil
}

// receive checks an event.
func (c *client) receive(p []byte) error {
	g := c.gen
	number, offset, err := parseEvent(p, g.event, g.payload)
	if err != nil {
		return err
	}
	switch {
	case number < c.next:
		return fmt.Errorf("event %d arrived twice", number)
	case number > c.next:
		return fmt.Errorf("%d events were lost: %d was followed by %d", number-c.next, c.next-1, number)
	}
	c.next++
	g.received++
	if c.pid != "" {
		c.offset = append(c.offset[:0], offset...)
	}
	g.onEvent(c)
	return nil
}

// sendEvent adds an event to Data's next write.
func (c *client) sendEvent() {
	g := c.gen
	c.sent++
	g.expected++
	c.sentAt = g.now
	g.text = appendEvent(g.text[:0], g.event, c.sent, g.payload)
	c.say(g.text)
}

// kick sends a client's first events.
func (g *generator) kick(c *client, events int) {
	g.out = g.out[:0]
	g.now = time.Now()
	for range events {
		c.sendEvent()
	}
	c.conn.Write(g.out)
}
