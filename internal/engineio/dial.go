package engineio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// RejectedError is a server's refusal of a handshake. The proxy passes it on to the client.
type RejectedError struct {
	Status int
	Header http.Header
	Body   []byte
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("engineio: handshake refused with status %d", e.Status)
}

// maxRejectionBytes limits a refusal's body. The rest is dropped.
const maxRejectionBytes = 1 << 20

// Dialer connects to an upstream server.
type Dialer struct {
	// DialContext opens a connection to the server for a WebSocket, with TLS if the server needs
	// it.
	DialContext func(ctx context.Context) (net.Conn, error)
	// DialPolling opens a connection for polling requests. Nil means DialContext.
	DialPolling func(ctx context.Context) (net.Conn, error)
	// Timeout limits a handshake, each of the two steps of an upgrade, and the last POSTs after
	// Close. Polls and other POSTs may take longer: if the server answers none, its silence ends
	// the Conn.
	Timeout time.Duration
	// MaxPayload is used if the server's handshake has no maxPayload, in bytes.
	MaxPayload int64
	// Incomplete accounts for the server's messages and polling answers that have arrived in part,
	// like Handler.Incomplete. It may be nil.
	Incomplete func(bytes int) bool
	// Ended is called once for each Conn that Dial returned, when the Conn ends. It must neither
	// wait nor call the Conn. It may be nil.
	Ended func()
	// Owner is for the user of this package; see Conn.Dialer.
	Owner any
	// UpgradeFailed is called when a Conn stays with polling although the server offered an
	// upgrade. It may be nil.
	UpgradeFailed func(err error)

	// polls is set when the server has refused a WebSocket but not polling. Later Conns of requests
	// with PollIfRefused begin with polling: python-engineio 3 runs the application's handlers
	// before it refuses a WebSocket. They still upgrade if the server offers that.
	polls atomic.Bool
	keeps keeping // the server's connections for polling
}

// maxHandshakeBytes limits what a server may send before it has answered the handshake.
const maxHandshakeBytes = 2 << 20

// Dial makes the handshake, within ctx's deadline, or Timeout if ctx has none. A *RejectedError is
// the server's refusal. Other errors mean that the server was not reached, or did not answer like
// an Engine.IO server.
func (d *Dialer) Dial(ctx context.Context, r Request) (*Conn, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.Timeout)
		defer cancel()
	}
	refused := false
	if r.PollIfRefused && d.polls.Load() {
		r = r.ForPolling()
	}
	if r.WebSocket {
		c := newConn(d, r)
		err := c.dialWebSocket(ctx)
		if err == nil {
			return c, nil
		}
		if !r.PollIfRefused || !refusesWebSockets(err) {
			return nil, err
		}
		refused, r = true, r.ForPolling()
	}
	c := newConn(d, r)
	c.poll = newPollingLink(c)
	if err := c.poll.dial(ctx); err != nil {
		c.poll.cancel()
		c.poll.abandon()
		return nil, err
	}
	if refused {
		d.polls.Store(true)
	}
	// With its cookies, later requests reach the same server behind a balancer.
	c.dialed.request.Header, c.dialed.request.head = withCookies(r.Header, c.dialed.response), ""
	return c, nil
}

func newConn(d *Dialer, r Request) *Conn {
	return &Conn{protocol: r.Protocol, dialer: d, dialed: &dialResult{request: r}}
}

// refusesWebSockets reports whether err may mean that the server takes no WebSockets. Servers of
// version 3 answer 400 then, but also if the application refuses the client. Only over polling do
// they say which.
func refusesWebSockets(err error) bool {
	var rejected *RejectedError
	if !errors.As(err, &rejected) {
		return false
	}
	switch rejected.Status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusUpgradeRequired, http.StatusNotImplemented:
		return true
	}
	return false
}

// ErrOtherVersion is wrapped if a server speaks another version of Engine.IO than expected. It
// wraps ErrMalformed.
var ErrOtherVersion = fmt.Errorf("%w: the server speaks Engine.IO version 3, as socket.io 2.x does (upstream.protocol)", ErrMalformed)

// RefusesVersion reports whether err is the refusal of a server that speaks version 3 only, such as
// python-engineio 3, of a handshake of version 4.
func RefusesVersion(err error) bool {
	var rejected *RejectedError
	return errors.As(err, &rejected) && rejected.Status == http.StatusBadRequest && bytes.Contains(rejected.Body, []byte("version"))
}

// rejection returns the error for a response that refuses the handshake.
func rejection(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxRejectionBytes))
	if err != nil {
		return err
	}
	return &RejectedError{resp.StatusCode, resp.Header, body}
}

// setHandshake reads the handshake from the server's first packet.
func (c *Conn) setHandshake(p Packet) error {
	if p.Type != Open {
		return fmt.Errorf("%w: no OPEN packet", ErrMalformed)
	}
	h, err := ParseHandshake(p.Data)
	c.handshake = h
	c.pongs.lastPong = time.Now()
	c.pongs.lastSign = c.pongs.lastPong
	return err
}

func (c *Conn) dialWebSocket(ctx context.Context) error {
	d, err := openWebSocket(ctx, c.dialer, c.dialed.request)
	if err != nil {
		return err
	}
	l := (*wsLink)(c)
	c.dialed.response = d.header
	c.dialed.initial, err = d.readUntil(l, func(p Packet) (bool, error) { return true, c.setHandshake(p) })
	if err = d.finish(err); err != nil {
		return err
	}
	l.stream = netpoll.New(d.conn, l)
	c.ws = l
	return nil
}
