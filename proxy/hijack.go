package proxy

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/gobwas/ws"
)

// hijacked is a connection on which a WebSocket handshake is being answered. It buffers the answer,
// so that the answer and the first messages go out in one write.
type hijacked struct {
	http.ResponseWriter
	conn    net.Conn
	answer  bytes.Buffer
	initial []byte // bytes that the client sent after its request
}

// Hijack implements http.Hijacker.
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.conn = conn
	rw.Writer.Reset(&h.answer)
	return conn, rw, nil
}

// upgrade accepts a WebSocket handshake with the upstream's headers and its choice of subprotocol. It
// answers an invalid handshake itself and returns an error.
func upgrade(w http.ResponseWriter, r *http.Request, header http.Header) (*hijacked, error) {
	h := &hijacked{ResponseWriter: w}
	protocol := header.Get("Sec-WebSocket-Protocol")
	if protocol != "" {
		header = header.Clone()
		header.Del("Sec-WebSocket-Protocol")
	}
	u := ws.HTTPUpgrader{Header: header, Protocol: func(p string) bool { return p == protocol }}
	_, rw, _, err := u.Upgrade(r, h)
	if err == nil {
		err = h.conn.SetDeadline(time.Time{}) // clears net/http's deadlines
	}
	if err == nil && rw.Reader.Buffered() > 0 {
		h.initial, err = rw.Peek(rw.Reader.Buffered())
		h.initial = slices.Clone(h.initial)
	}
	if c, ok := h.conn.(interface{ Unread() []byte }); ok {
		h.initial = append(h.initial, c.Unread()...)
	}
	if err != nil {
		if h.conn != nil {
			_, _ = h.conn.Write(h.answer.Bytes()) // tells the client why, if it is still there
			h.conn.Close()
		}
		return nil, err
	}
	return h, nil
}
