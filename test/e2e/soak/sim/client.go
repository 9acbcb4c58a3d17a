package main

import (
	"context"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/siotest/sioclient"
)

const (
	tick        = 100 * time.Millisecond
	perTick     = 0.2 // probability of an event in a namespace
	stepTimeout = 10 * time.Second
	maxDials    = 100
)

// client is one simulated client with its namespaces.
type client struct {
	// Immutable.
	name       string
	url        string
	sio        *sioclient.Client
	namespaces []*namespace

	random *rand.Rand // owned by run
	epoch  int        // owned by run: number of connections

	mu    sync.Mutex // guards the fields below and those of the namespaces
	conn  *conn      // the latest
	dials []dial     // the latest ones
	seen  int64      // when it was last seen to be connected, in Unix milliseconds
}

// dial is a TCP connection that a client opened, to find it in holdfast's log.
type dial struct {
	At   int64 `json:"at"`
	Port int   `json:"port"`
}

// namespace is what a client records about one of its namespaces.
type namespace struct {
	NSP      string      `json:"nsp"`
	Sessions []*session  `json:"sessions"`
	Fresh    []freshNote `json:"fresh"`
	Epochs   []*epoch    `json:"epochs"`
	Live     bool        `json:"live"`
	Asked    int         `json:"asked"`

	Unanswered []int `json:"unanswered"`

	waiting map[int]bool // for an answer
	socket  *sioclient.Socket
	engine  string // the Engine.IO sid of the last recorded connection
	number  int
}

// freshNote is a connection that should have recovered a session and did not.
type freshNote struct {
	At       int64  `json:"at"`
	Away     int64  `json:"away"`     // for how many milliseconds the client was not connected
	Previous string `json:"previous"` // the session before
	SID      string `json:"sid"`
}

func newClient(name, url string, namespaces []string, random *rand.Rand) *client {
	c := &client{name: name, url: url, random: random}
	auth := map[string]any{"client": name}
	c.sio = sioclient.New(sioclient.Options{URL: url, Namespace: namespaces[0], Auth: auth, NetDial: c.dial})
	for _, nsp := range namespaces {
		n := &namespace{
			NSP: nsp, socket: c.sio.Of(nsp, auth),
			Sessions: []*session{}, Fresh: []freshNote{}, Epochs: []*epoch{}, waiting: map[int]bool{},
		}
		n.socket.OnBinary("n", func(args []any, ack func(...any)) {
			c.take(n, args, func(s *session) *incoming { return s.Own })
			if ack != nil {
				ack(args[0])
			}
		})
		n.socket.OnBinary("b", func(args []any, _ func(...any)) {
			c.take(n, args, func(s *session) *incoming { return s.Broadcasts })
		})
		c.namespaces = append(c.namespaces, n)
	}
	return c
}

func (c *client) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	nc, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	conn := newConn(nc.(*net.TCPConn))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = conn
	if local, ok := nc.LocalAddr().(*net.TCPAddr); ok {
		c.dials = append(c.dials[max(0, len(c.dials)-maxDials+1):], dial{time.Now().UnixMilli(), local.Port})
	}
	return conn, nil
}

// take records an event with the arguments number, time of its predecessor, content, offset.
func (c *client) take(n *namespace, args []any, stream func(*session) *incoming) {
	sid, engine := n.socket.ID(), c.sio.SID()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.present(n, sid, engine)
	if len(args) < 3 {
		stream(s).note("too few arguments", len(args))
		return
	}
	stream(s).take(int(integer(args[0])), integer(args[1]), args[2], connection{s.Connections, s.connectedAt})
}

func integer(arg any) int64 {
	raw, _ := arg.(json.RawMessage)
	i, _ := strconv.ParseInt(string(raw), 10, 64) // 0 is not an event's number
	return i
}

// present returns the socket's current session in a namespace, and records whether it is new or
// has a new connection. The client's mu must be held.
func (c *client) present(n *namespace, sid, engine string) *session {
	var s *session
	if len(n.Sessions) > 0 {
		s = n.Sessions[len(n.Sessions)-1]
	}
	now := time.Now().UnixMilli()
	if s == nil || s.SID != sid {
		if s != nil {
			n.Fresh = append(n.Fresh, freshNote{now, now - c.seen, s.SID, sid})
		}
		s = newSession(sid)
		n.Sessions = append(n.Sessions, s)
		n.engine = ""
	}
	if n.engine != engine {
		n.engine = engine
		s.Connections++
		s.connectedAt = now
	}
	return s
}

// connected reports whether all namespaces are connected.
func (c *client) connected() bool {
	for _, n := range c.namespaces {
		if !n.socket.Connected() {
			return false
		}
	}
	c.locked(func() { c.seen = time.Now().UnixMilli() })
	return true
}

// reconnect opens a new connection. If it fails, the next tick tries again.
func (c *client) reconnect(ctx context.Context) error {
	c.over()
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	if err := c.sio.Connect(ctx); err != nil {
		c.sio.CloseTransport() // some namespaces may be connected
		return err
	}
	c.epoch++
	engine := c.sio.SID()
	for _, n := range c.namespaces {
		if sid := n.socket.ID(); sid != "" {
			c.mu.Lock()
			c.present(n, sid, engine)
			c.mu.Unlock()
		}
	}
	return nil
}

// over records that the previous connection has ended.
func (c *client) over() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.namespaces {
		if len(n.Epochs) > 0 {
			n.Epochs[len(n.Epochs)-1].Over = true
		}
	}
}

// emit sends the next number of a namespace's stream, if there is a
// connection.
func (c *client) emit(n *namespace) {
	sid := n.socket.ID()
	i := n.number + 1
	if sid == "" || !c.send(n, i) {
		return
	}
	n.number = i
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(n.Epochs) == 0 || n.Epochs[len(n.Epochs)-1].Epoch != c.epoch {
		n.Epochs = append(n.Epochs, &epoch{Epoch: c.epoch, SID: sid, First: i})
	}
	n.Epochs[len(n.Epochs)-1].Last = i
}

// send sends number i, and reports whether there was a connection.
func (c *client) send(n *namespace, i int) bool {
	if !isAsk(i) {
		return n.socket.EmitVolatile("u", i, c.epoch, body(i))
	}
	c.locked(func() { n.waiting[i] = true })
	sent := n.socket.EmitVolatileAck(func(args []json.RawMessage) {
		if len(args) > 0 && integer(args[0]) == int64(i) {
			c.locked(func() { delete(n.waiting, i) })
		}
	}, "u", i, c.epoch, body(i))
	c.locked(func() {
		if sent {
			n.Asked++
		} else {
			delete(n.waiting, i) // it will be sent over the next connection
		}
	})
	return sent
}

func (c *client) locked(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn()
}

// MarshalJSON returns the client's part of the ledger.
func (c *client) MarshalJSON() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.namespaces {
		n.Live = n.socket.Connected()
		n.Unanswered = slices.AppendSeq([]int{}, maps.Keys(n.waiting))
		for _, s := range n.Sessions {
			s.Own.count()
			s.Broadcasts.count()
		}
	}
	return json.Marshal(struct {
		Name       string       `json:"name"`
		Version    string       `json:"version"`
		Namespaces []*namespace `json:"namespaces"`
		Dials      []dial       `json:"connections"`
	}{c.name, "simulated", c.namespaces, c.dials})
}
