package imitation

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/gobwas/ws"
)

// End is how a connection ended, as a client saw it.
type End string

// Ends of a connection.
const (
	EOF        End = "end of the stream, without a Close frame"
	CloseFrame End = "a Close frame without a code"
	CloseCode  End = "a Close frame with a code"
)

// Library is a client library.
type Library struct {
	Name string
	// Returns reports whether the client notices such an end immediately, and reconnects.
	Returns func(End) bool

	head    func(host, query, key string) string
	connect func(namespace string) string
}

// Java listens to OkHttp's onClosed and onFailure, and not to onClosing: it does not notice a Close
// frame before its ping timeout.
var Java = &Library{
	Name:    "Java",
	Returns: func(e End) bool { return e == EOF },
	head: func(host, query, key string) string {
		return "GET /socket.io/?EIO=4&transport=websocket" + query + " HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
			"Sec-WebSocket-Key: " + key + "\r\nSec-WebSocket-Version: 13\r\nHost: " + host +
			"\r\nAccept-Encoding: gzip\r\nUser-Agent: okhttp/3.12.12\r\n\r\n"
	},
	connect: func(namespace string) string {
		if namespace == "/" {
			return "40"
		}
		return "40" + namespace + ","
	},
}

// CPP looks at the code that it has answered a Close frame with, which is 1000 if there was none, and
// takes that for an end that was wanted.
var CPP = &Library{
	Name:    "C++",
	Returns: func(e End) bool { return e != CloseFrame },
	head: func(host, query, key string) string {
		return "GET /socket.io/?EIO=4&transport=websocket&t=1795960453" + query + " HTTP/1.1\r\nConnection: Upgrade\r\nHost: " + host +
			"\r\nSec-WebSocket-Key: " + key + "\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\nUser-Agent: WebSocket++/0.8.2\r\n\r\n"
	},
	connect: func(namespace string) string {
		if namespace == "/" {
			return "40"
		}
		return "40" + namespace
	},
}

// Libraries are all of them.
func Libraries() []*Library { return []*Library{Java, CPP} }

// Client is one connection of a client. It is safe for concurrent use.
type Client struct {
	lib  *Library
	conn net.Conn
	done chan struct{} // closed at the end

	mu     sync.Mutex // guards the fields below, and writes
	id     string     // of the socket in "/"
	pid    string     // if the reply had one
	events [][]any    // names and arguments
	end    End
}

// Dial connects to "/" at host:port. query begins with & unless it is empty.
func Dial(lib *Library, addr, query string) (*Client, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	var key [16]byte
	for i := range key {
		key[i] = byte(rand.Uint32())
	}
	if _, err := conn.Write([]byte(lib.head(addr, query, base64.StdEncoding.EncodeToString(key[:])))); err != nil {
		conn.Close()
		return nil, err
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil) //nolint:bodyclose // the rest is the WebSocket
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		err = fmt.Errorf("imitation: %s", resp.Status)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	c := &Client{lib: lib, conn: conn, done: make(chan struct{})}
	c.send(lib.connect("/"))
	go c.read(br) // ends with the connection
	return c, nil
}

func (c *Client) read(br *bufio.Reader) {
	defer close(c.done)
	for {
		f, err := ws.ReadFrame(br)
		if err != nil {
			c.ended(EOF)
			return
		}
		switch {
		case f.Header.OpCode == ws.OpPing:
			c.write(ws.NewPongFrame(f.Payload))
		case f.Header.OpCode == ws.OpClose && len(f.Payload) == 0:
			c.ended(CloseFrame)
			return
		case f.Header.OpCode == ws.OpClose:
			c.ended(CloseCode)
			return
		default:
			c.packet(string(f.Payload))
		}
	}
}

func (c *Client) packet(p string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case p == "2":
		c.writeLocked(ws.NewTextFrame([]byte("3")))
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
}

func (c *Client) ended(e End) {
	c.mu.Lock()
	c.end = e
	c.mu.Unlock()
	c.conn.Close()
}

func (c *Client) send(text string) { c.write(ws.NewTextFrame([]byte(text))) }

func (c *Client) write(f ws.Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeLocked(f)
}

func (c *Client) writeLocked(f ws.Frame) {
	_ = ws.WriteFrame(c.conn, ws.MaskFrameInPlace(f)) // the reader sees the end
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

// ErrNoReturn means that the client does not come back after such an end, or not before its timeout.
var ErrNoReturn = errors.New("imitation: the client does not come back")

// Wait waits for the end of the connection. It fails if a client of this library would not come back.
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
	if t, ok := c.conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // a reset; without it an ordinary end
	}
	c.conn.Close()
	<-c.done
}
