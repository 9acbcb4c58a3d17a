package engineio

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gobwas/ws"
)

// framePacket converts a message or a control frame to a packet. Pings and pongs become NOOP.
func framePacket(op ws.OpCode, payload []byte) (Packet, error) {
	switch {
	case op == ws.OpClose:
		return Packet{}, ErrServerClosed
	case op.IsControl():
		return Packet{Type: Noop}, nil
	case op == ws.OpBinary:
		return Packet{Type: Message, Binary: true, Data: payload}, nil
	}
	return decodeText(payload)
}

// wsDial is a WebSocket before it becomes a stream. Its context limits all I/O.
type wsDial struct {
	ctx    context.Context
	conn   net.Conn
	br     *bufio.Reader
	header http.Header // of the answer
	stop   func() bool // stops watching ctx
}

// finish ends the dial. If err is not nil, or ctx has ended, it closes the connection and returns
// why.
func (d *wsDial) finish(err error) error {
	if !d.stop() { // the connection has a deadline now
		err = errors.Join(d.ctx.Err(), err)
	}
	if err != nil {
		d.conn.Close()
	}
	freeReader(d.br)
	return err
}

// readUntil reads packets until fn is done, and returns the bytes that follow. It skips control
// frames.
func (d *wsDial) readUntil(l *wsLink, fn func(Packet) (done bool, err error)) ([]byte, error) {
	return l.read(d.br, func(op ws.OpCode, payload []byte) error {
		p, err := framePacket(op, payload)
		if err != nil || op.IsControl() {
			return err
		}
		done, err := fn(p)
		if done && err == nil {
			return errStop
		}
		return err
	})
}

// read feeds frames to fn until it returns an error. On errStop it returns the bytes that follow.
func (l *wsLink) read(br *bufio.Reader, fn func(ws.OpCode, []byte) error) (rest []byte, err error) {
	for {
		if _, err := br.Peek(1); err != nil {
			return nil, err
		}
		p, err := br.Peek(br.Buffered())
		if err != nil {
			return nil, err
		}
		rest, err := l.frames.feed(p, fn)
		if errors.Is(err, errStop) {
			return append([]byte(nil), rest...), nil
		}
		if err != nil {
			return nil, err
		}
		if _, err := br.Discard(len(p)); err != nil {
			return nil, err
		}
	}
}

// readers are used for handshakes only. Bytes that follow a handshake are copied.
var readers = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

func newReader(r io.Reader) *bufio.Reader {
	br := readers.Get().(*bufio.Reader)
	br.Reset(r)
	return br
}

func freeReader(br *bufio.Reader) {
	br.Reset(nil)
	readers.Put(br)
}

// acceptKey returns the Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455, 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// longAgo is a deadline that has passed, whatever the time is.
var longAgo = time.Unix(1, 0)

// openWebSocket makes the WebSocket handshake (RFC 6455, 4.1).
func openWebSocket(ctx context.Context, dialer *Dialer, r Request) (*wsDial, error) {
	conn, err := dialer.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	d := &wsDial{ctx: ctx, conn: conn, br: newReader(io.LimitReader(conn, maxHandshakeBytes))}
	d.stop = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(longAgo) })
	if d.header, err = webSocketHandshake(conn, d.br, r); err != nil {
		return nil, d.finish(err)
	}
	return d, nil
}

func webSocketHandshake(conn net.Conn, br *bufio.Reader, r Request) (http.Header, error) {
	var nonce [16]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return nil, err
	}
	key := base64.StdEncoding.EncodeToString(nonce[:])
	head := []byte(r.Head() +
		"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + "\r\n\r\n")
	if _, err := conn.Write(head); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodGet})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, rejection(resp)
	}
	if resp.Header.Get("Sec-WebSocket-Accept") != acceptKey(key) {
		return nil, fmt.Errorf("%w: wrong Sec-WebSocket-Accept", ErrMalformed)
	}
	if ext := resp.Header.Get("Sec-WebSocket-Extensions"); ext != "" {
		return nil, fmt.Errorf("%w: extension %q that was not offered", ErrMalformed, ext)
	}
	return resp.Header, nil
}
