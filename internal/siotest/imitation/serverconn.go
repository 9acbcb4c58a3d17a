package imitation

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/siotest/sioserver/wire"
)

// serverConn is one connection. All of it is guarded by Server.mu.
type serverConn struct {
	s          *Server
	sid        string
	queue      []frame3  // for polls
	conn       io.Writer // the WebSocket, or nil
	changed    *sync.Cond
	over       bool
	namespaces map[string]bool
	decoder    wire.Decoder
}

// useLocked continues over a WebSocket.
func (c *serverConn) useLocked(conn io.Writer) {
	c.conn = conn
	queue := c.queue
	c.queue = nil
	for _, f := range queue {
		if f.data != "6" {
			c.sendLocked(f)
		}
	}
}

func (c *serverConn) endLocked() {
	if c.over {
		return
	}
	c.over = true
	delete(c.s.conns, c.sid)
	c.s.ended = append(c.s.ended, c.sid)
	if closer, ok := c.conn.(io.Closer); ok {
		_ = closer.Close() // its error does not matter
	}
	c.changed.Broadcast()
}

func (c *serverConn) sendLocked(f frame3) {
	if c.conn == nil {
		c.queue = append(c.queue, f)
		c.changed.Broadcast()
		return
	}
	op, rest := ws.OpText, []byte(f.data)
	if f.binary {
		op = ws.OpBinary
	}
	var b bytes.Buffer
	for fin := false; !fin; op = ws.OpContinuation {
		part := rest
		if n := c.s.lib.fragment; n > 0 && len(rest) > n && !f.binary {
			part = rest[:n]
		}
		rest = rest[len(part):]
		fin = len(rest) == 0
		_ = ws.WriteFrame(&b, ws.NewFrame(op, fin, part)) // to memory
	}
	_, _ = c.conn.Write(b.Bytes()) // the reader sees the end
}

// postedLocked handles the packets of a POST.
func (c *serverConn) postedLocked(frames []frame3) {
	for i, f := range frames {
		c.receiveLocked(f)
		if c.s.lib.losesPosted && i < len(frames)-1 && (strings.HasPrefix(f.data, "45") || strings.HasPrefix(f.data, "46")) {
			c.s.faults = append(c.s.faults, fmt.Sprintf("%d packets behind a binary event in a POST", len(frames)-1-i))
			return
		}
	}
}

func (c *serverConn) receiveLocked(f frame3) {
	switch {
	case c.over || f.data == "":
	case f.binary:
		c.packetLocked(c.decoder.Binary([]byte(f.data[1:])))
	case f.data[0] == '1':
		c.endLocked()
	case f.data[0] == '2':
		pong := "3"
		if c.s.lib.echoesPings {
			pong += f.data[1:]
		}
		c.sendLocked(frame3{data: pong})
	case f.data[0] == '4':
		c.packetLocked(c.decoder.Text([]byte(f.data[1:])))
	}
}

func (c *serverConn) packetLocked(p wire.Packet, complete bool, err error) {
	if err != nil {
		c.s.faults = append(c.s.faults, err.Error())
		c.endLocked()
		return
	}
	namespace := p.Namespace
	if !c.s.lib.keepsQuery {
		namespace, _, _ = strings.Cut(namespace, "?")
	}
	switch {
	case !complete:
	case p.Type == wire.Connect:
		c.connectLocked(namespace)
	case p.Type == wire.Disconnect:
		c.disconnectLocked(namespace)
	case c.namespaces[namespace] && (p.Type == wire.Event || p.Type == wire.BinaryEvent):
		c.eventLocked(namespace, &p)
	}
}

func (c *serverConn) connectLocked(namespace string) {
	switch {
	case c.namespaces[namespace]:
		return
	case namespace != "/" && namespace != "/admin":
		c.textLocked(c.s.lib.refusal(namespace))
		return
	}
	c.namespaces[namespace] = true
	early := c.s.lib.early(namespace)
	if early {
		c.emitLocked(namespace, "early", namespace)
	}
	c.textLocked(c.s.lib.connectReply(namespace))
	if !early {
		c.emitLocked(namespace, "early", namespace)
	}
	if c.s.lib.pings {
		c.sendLocked(frame3{data: "2"})
	}
}

func (c *serverConn) disconnectLocked(namespace string) {
	delete(c.namespaces, namespace)
	if namespace == "/" && c.s.lib.endsAll {
		clear(c.namespaces)
	}
}

func (c *serverConn) textLocked(packet string) { c.sendLocked(frame3{data: "4" + packet}) }

func (c *serverConn) emitLocked(namespace, event string, args ...any) {
	c.sendPacketLocked(wire.Event, namespace, wire.NoID, append([]any{event}, args...))
}

func (c *serverConn) eventLocked(namespace string, p *wire.Packet) {
	args, err := p.Args()
	if err != nil || len(args) == 0 || string(args[0]) != `"echo"` || p.ID == wire.NoID {
		return
	}
	values, err := wire.Resolve(args[1:], p.Attachments)
	if err != nil {
		c.s.faults = append(c.s.faults, err.Error())
		return
	}
	c.sendPacketLocked(wire.Ack, namespace, p.ID, values)
}

// sendPacketLocked sends an event or an acknowledgement. kind is Event or Ack.
func (c *serverConn) sendPacketLocked(kind wire.Type, namespace string, id int64, args []any) {
	data, attachments, err := wire.Marshal(args)
	if err != nil {
		panic(err) // a mistake of the test
	}
	if len(attachments) > 0 {
		kind += wire.BinaryEvent - wire.Event
	}
	p := wire.Packet{Type: kind, Namespace: namespace, ID: id, Data: data, Attachments: attachments}
	c.textLocked(string(p.Append(nil)))
	for _, a := range attachments {
		c.sendLocked(frame3{true, "\x04" + string(a)})
	}
}
