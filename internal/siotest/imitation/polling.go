package imitation

import (
	"bufio"
	"compress/gzip"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/gobwas/ws"
)

// httpConn is a connection for requests, one at a time.
type httpConn struct {
	mu   sync.Mutex // held during a request
	conn net.Conn
	br   *bufio.Reader
}

func (c *Client) newHTTPConn() (*httpConn, error) {
	conn, err := c.dial()
	if err != nil {
		return nil, err
	}
	return &httpConn{conn: conn, br: bufio.NewReader(conn)}, nil
}

// do sends a request, and returns the answer's body. A status other than 200 is a Refusal.
func (h *httpConn) do(text string) (body string, end End) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, err := io.WriteString(h.conn, text); err != nil {
		return "", EOF
	}
	resp, err := http.ReadResponse(h.br, nil)
	if err != nil {
		return "", EOF
	}
	defer resp.Body.Close()
	reader := io.Reader(resp.Body)
	if resp.Header.Get("Content-Encoding") == "gzip" {
		if reader, err = gzip.NewReader(reader); err != nil {
			return "", EOF
		}
	}
	data, err := io.ReadAll(reader)
	switch {
	case err != nil:
		return "", EOF
	case resp.StatusCode != http.StatusOK:
		return "", Refusal
	}
	return string(data), ""
}

func (c *Client) startPolling(upgrade bool) (err error) {
	if c.polls, err = c.newHTTPConn(); err != nil {
		return err
	}
	if c.posts, err = c.newHTTPConn(); err != nil {
		return err
	}
	body, end := c.polls.do(c.lib.handshake(request{host: c.addr, query: c.query}))
	if end != "" {
		return ErrNoReturn
	}
	c.take(body)
	switch {
	case !upgrade:
		go c.poll(nil) // ends with the client
		c.send(c.lib.connect("/"))
	case c.lib.upgrade == upgradeDirect:
		c.send(c.lib.connect("/"))
		return c.upgradeDirectly()
	default:
		return c.upgradeByProbe()
	}
	return nil
}

// request is the next request of polling.
func (c *Client) request(size int) request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return request{host: c.addr, query: c.query, sid: c.sid, size: size}
}

func (c *Client) post(h *httpConn, packet string) {
	if _, end := h.do(c.lib.post(c.request(len(packet))) + packet); end != "" {
		c.finish(end)
	}
}

// take handles a payload. It returns false after a CLOSE packet.
func (c *Client) take(payload string) bool {
	for packet := range strings.SplitSeq(payload, "\x1e") {
		if packet == "1" {
			return false
		}
		if answer := c.packet(packet); answer != "" {
			c.send(answer)
		}
	}
	return true
}

// poll polls until stop is closed, or the connection ends.
func (c *Client) poll(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		body, end := c.polls.do(c.lib.poll(c.request(0)))
		if end == "" && !c.take(body) {
			end = ClosePacket
		}
		if end != "" {
			c.finish(end)
			return
		}
	}
}

func (c *Client) upgradeDirectly() error {
	conn, br, err := c.openWebSocket(c.sid)
	if err != nil {
		return err
	}
	c.becomeWebSocket(conn)
	go c.readFrames(conn, br) // ends with the connection
	return nil
}

// becomeWebSocket sends UPGRADE. From then on the WebSocket is the transport.
func (c *Client) becomeWebSocket(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	writeFrame(conn, ws.NewTextFrame([]byte("5")))
	c.ws = conn
}

func (c *Client) upgradeByProbe() error {
	if c.lib.upgrade == upgradeProbe {
		c.send(c.lib.connect("/"))
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // ends after the poll that waits when stop is closed
		defer close(stopped)
		c.poll(stop)
	}()
	conn, br, err := c.openWebSocket(c.sid)
	if err != nil {
		return err
	}
	writeFrame(conn, ws.NewTextFrame([]byte("2probe")))
	if _, end := c.readPacket(conn, br); end != "" {
		return ErrNoReturn
	}
	close(stop)
	<-stopped
	c.becomeWebSocket(conn)
	go c.readFrames(conn, br) // ends with the connection
	if c.lib.upgrade == upgradeProbeFirst {
		c.send(c.lib.connect("/"))
	}
	return nil
}
