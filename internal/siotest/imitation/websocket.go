package imitation

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"

	"github.com/gobwas/ws"
)

func (c *Client) startWebSocket(bool) error {
	conn, br, err := c.openWebSocket("")
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.ws = conn
	c.mu.Unlock()
	go c.readFrames(conn, br) // ends with the connection
	c.send(c.lib.connect("/"))
	return nil
}

// openWebSocket makes the handshake, with a sid if it is to upgrade.
func (c *Client) openWebSocket(sid string) (net.Conn, *bufio.Reader, error) {
	conn, err := c.dial()
	if err != nil {
		return nil, nil, err
	}
	var key [16]byte
	for i := range key {
		key[i] = byte(rand.Uint32())
	}
	head := c.lib.webSocket(request{host: c.addr, query: c.query, sid: sid, key: base64.StdEncoding.EncodeToString(key[:])})
	if _, err := conn.Write([]byte(head)); err != nil {
		return nil, nil, err
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil) //nolint:bodyclose // the rest is the WebSocket
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, nil, fmt.Errorf("imitation: %s", resp.Status)
	}
	return conn, br, nil
}

func (c *Client) readFrames(conn net.Conn, br *bufio.Reader) {
	for {
		text, end := c.readPacket(conn, br)
		if end != "" {
			c.finish(end)
			return
		}
		if answer := c.packet(text); answer != "" {
			c.send(answer)
		}
	}
}

// readPacket returns the next packet, or how the connection ended. It answers pings.
func (c *Client) readPacket(conn net.Conn, br *bufio.Reader) (text string, end End) {
	for {
		f, err := ws.ReadFrame(br)
		switch {
		case err != nil:
			return "", EOF
		case f.Header.OpCode == ws.OpPing:
			c.mu.Lock()
			writeFrame(conn, ws.NewPongFrame(f.Payload))
			c.mu.Unlock()
		case f.Header.OpCode == ws.OpClose && len(f.Payload) == 0:
			return "", CloseFrame
		case f.Header.OpCode == ws.OpClose:
			return "", CloseCode
		default:
			return string(f.Payload), ""
		}
	}
}

func writeFrame(conn net.Conn, f ws.Frame) {
	_ = ws.WriteFrame(conn, ws.MaskFrameInPlace(f)) // the reader sees the end
}
