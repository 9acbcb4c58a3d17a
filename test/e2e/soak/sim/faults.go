package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// fault is a fault of a client's connection.
type fault struct {
	name   string
	weight int
	run    func(ctx context.Context, r *runner, c *client, nc *conn)
}

var faults = []fault{
	{"simulated: cut", 4, func(_ context.Context, _ *runner, _ *client, nc *conn) { _ = nc.Close() }},
	{"simulated: reset", 4, func(_ context.Context, _ *runner, _ *client, nc *conn) { nc.reset() }},
	{"simulated: closed in an orderly way", 2, func(_ context.Context, _ *runner, c *client, _ *conn) { c.sio.CloseTransport() }},
	{"simulated: half-close", 2, func(_ context.Context, _ *runner, _ *client, nc *conn) { _ = nc.CloseWrite() }},
	{"simulated: new network path", 4, func(_ context.Context, _ *runner, c *client, nc *conn) {
		nc.desert(time.Duration(c.random.Int64N(int64(10 * time.Second))))
	}},
	{"simulated: nothing is read", 2, func(_ context.Context, _ *runner, c *client, nc *conn) {
		nc.stalled.Store(time.Now().Add(time.Duration(c.random.Int64N(int64(4 * time.Second)))).UnixNano())
	}},
	{"simulated: one byte per write", 2, func(_ context.Context, _ *runner, _ *client, nc *conn) { nc.trickle.Store(true) }},
	{"simulated: delay", 2, func(_ context.Context, _ *runner, c *client, nc *conn) {
		nc.delay.Store(c.random.Int64N(int64(time.Second)))
	}},
	{"simulated: away", 3, func(ctx context.Context, _ *runner, c *client, nc *conn) {
		nc.reset()
		sleep(ctx, time.Duration(c.random.Int64N(int64(5*time.Second))))
	}},
	{"simulated: stale connection", 3, staleConnection},
}

// handshakesApart is the time between two handshakes of one client at different replicas, which know
// each other's clocks to half a round trip. Real clients wait for 500 ms at least.
const handshakesApart = time.Second

// staleConnection opens a second connection, and replaces the client's own by a
// third. Then the second one, whose handshake is older, asks for a session: it must
// be closed without getting one.
func staleConnection(ctx context.Context, r *runner, c *client, nc *conn) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	second, br, _, err := ws.Dial(ctx, strings.Replace(c.url, "http://", "ws://", 1)+"/socket.io/?EIO=4&transport=websocket")
	if err != nil {
		return // the server may be stopped, or away
	}
	defer second.Close()
	_ = second.SetDeadline(time.Now().Add(stepTimeout)) // fails only if closed
	if br == nil {
		br = bufio.NewReader(second)
	}
	open, err := nextText(second, br)
	if err != nil || !strings.HasPrefix(open, "0") {
		return
	}
	n := c.namespaces[0]
	pid, offset := n.socket.PID(), n.socket.Offset()
	sid := n.socket.ID()
	nc.desert(stepTimeout)
	if r.apart {
		sleep(ctx, handshakesApart)
	}
	if c.reconnect(ctx) != nil || sid == "" || n.socket.ID() != sid {
		return
	}
	auth, err := json.Marshal(map[string]string{"pid": pid, "offset": offset})
	if err == nil {
		err = wsutil.WriteClientText(second, append([]byte("40"), auth...))
	}
	for err == nil {
		var text string
		if text, err = nextText(second, br); err == nil && strings.HasPrefix(text, "40{") {
			var reply struct{ PID string }
			if json.Unmarshal([]byte(text[2:]), &reply) == nil && reply.PID == pid {
				r.broken(fmt.Sprintf("%s: a connection with an older handshake got the session", c.name))
			} else if !r.apart && n.socket.Connected() && n.socket.ID() == sid {
				r.broken(fmt.Sprintf("%s: a connection with an older handshake got a session of its own", c.name))
			}
			return
		}
	}
}

// nextText returns the next text message, and answers pings in between.
func nextText(nc interface {
	Write(p []byte) (int, error)
	Read(p []byte) (int, error)
}, br *bufio.Reader,
) (string, error) {
	rw := struct {
		*bufio.Reader
		write
	}{br, nc.Write}
	data, err := wsutil.ReadServerText(rw)
	return string(data), err
}

type write func(p []byte) (int, error)

func (w write) Write(p []byte) (int, error) { return w(p) }

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
