package imitation

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/gobwas/ws"
)

// Client is one connection of a client. It is safe for concurrent use.
type Client struct {
	lib   *Library
	addr  string
	query string        // the application's
	done  chan struct{} // closed at the end

	mu     sync.Mutex // guards the fields below, and writes to the WebSocket
	conns  []net.Conn // those that are open
	ws     net.Conn   // the transport, or nil while it polls
	sid    string     // the connection's
	polls  *httpConn  // nil without polling
	posts  *httpConn
	id     string  // of the socket in "/"
	pid    string  // if the reply had one
	events [][]any // names and arguments
	end    End
	closed bool
}

// Dial connects to "/" at host:port. query is the application's.
func Dial(lib *Library, transport Transport, addr, query string) (*Client, error) {
	c := &Client{lib: lib, addr: addr, query: query, done: make(chan struct{})}
	start := c.startPolling
	if transport == WebSocket {
		start = c.startWebSocket
	}
	err := start(transport == Upgrade)
	if err != nil {
		c.finish(EOF)
		return nil, err
	}
	return c, nil
}

// dial opens a connection that ends with the client.
func (c *Client) dial() (net.Conn, error) {
	conn, err := net.Dial("tcp", c.addr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	c.conns = append(c.conns, conn)
	return conn, nil
}

// packet handles an Engine.IO packet, and returns what the client answers, or "".
func (c *Client) packet(p string) (answer string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case p == "2":
		return "3"
	case strings.HasPrefix(p, "0{"):
		var open struct{ SID string }
		if json.Unmarshal([]byte(p[1:]), &open) == nil {
			c.sid = open.SID
		}
	case strings.HasPrefix(p, "40"):
		var reply struct{ SID, PID string }
		if json.Unmarshal([]byte(p[2:]), &reply) == nil {
			c.id, c.pid = reply.SID, reply.PID
		}
	case strings.HasPrefix(p, "42["):
		var event []any
		if json.Unmarshal([]byte(p[2:]), &event) == nil {
			c.events = append(c.events, event)
		}
	}
	return ""
}

// finish ends the client once.
func (c *Client) finish(e End) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed, c.end = true, e
	for _, conn := range c.conns {
		conn.Close()
	}
	close(c.done)
}

// Emit sends an event, by what is the client's transport.
func (c *Client) Emit(event string) { c.send("42" + event) }

func (c *Client) send(text string) {
	if posts := c.sendWebSocket(text); posts != nil {
		c.post(posts, text)
	}
}

// sendWebSocket sends a packet over the WebSocket, or returns where to post it.
func (c *Client) sendWebSocket(text string) *httpConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ws == nil {
		return c.posts
	}
	writeFrame(c.ws, ws.NewTextFrame([]byte(text)))
	return nil
}

// ID returns the id of the client's socket, or "" before the reply to its CONNECT.
func (c *Client) ID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id
}

// HasPID reports whether the reply had a pid.
func (c *Client) HasPID() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pid != ""
}

// Events returns the events so far: their names and arguments.
func (c *Client) Events() [][]any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clip(c.events)
}

// Upgraded reports whether the client's transport is a WebSocket.
func (c *Client) Upgraded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ws != nil
}

// Ended reports whether the connection has ended.
func (c *Client) Ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// ErrNoReturn means that the client does not come back after such an end, or not before its
// timeout.
var ErrNoReturn = errors.New("imitation: the client does not come back")

// Wait waits for the end of the connection. It fails if a client of this library would not come
// back.
func (c *Client) Wait() error {
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.lib.Returns(c.end) {
		return fmt.Errorf("%w: %s saw %s", ErrNoReturn, c.lib.Name, c.end)
	}
	return nil
}

// Cut ends the connection as the loss of the network does, without a Close frame.
func (c *Client) Cut() {
	c.mu.Lock()
	for _, conn := range c.conns {
		if t, ok := conn.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // a reset; without it an ordinary end
		}
	}
	c.mu.Unlock()
	c.finish(EOF)
}
