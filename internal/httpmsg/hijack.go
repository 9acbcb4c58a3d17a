package httpmsg

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/gobwas/ws"
)

// Hijacked is a connection on which a WebSocket handshake is being answered. It buffers the answer,
// so that the answer and the first messages go out in one write.
type Hijacked struct {
	http.ResponseWriter
	Conn    net.Conn
	Answer  bytes.Buffer
	Initial []byte // bytes that the client sent after its request
}

// Hijack implements http.Hijacker.
func (h *Hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.Conn = conn
	rw.Writer.Reset(&h.Answer)
	return conn, rw, nil
}

// Upgrade accepts a WebSocket handshake with the upstream's headers and its choice of subprotocol.
// It answers an invalid handshake itself and returns an error.
func Upgrade(w http.ResponseWriter, r *http.Request, header http.Header) (*Hijacked, error) {
	h := &Hijacked{ResponseWriter: w}
	protocol := header.Get("Sec-WebSocket-Protocol")
	if protocol != "" {
		header = header.Clone()
		header.Del("Sec-WebSocket-Protocol")
	}
	u := ws.HTTPUpgrader{Header: header, Protocol: func(p string) bool { return p == protocol }}
	_, rw, _, err := u.Upgrade(r, h)
	if err == nil {
		err = h.Conn.SetDeadline(time.Time{}) // clears net/http's deadlines
	}
	if err == nil && rw.Reader.Buffered() > 0 {
		h.Initial, err = rw.Peek(rw.Reader.Buffered())
		h.Initial = slices.Clone(h.Initial)
	}
	if c, ok := h.Conn.(interface{ Unread() []byte }); ok {
		h.Initial = append(h.Initial, c.Unread()...)
	}
	if err != nil {
		if h.Conn != nil {
			_, _ = h.Conn.Write(h.Answer.Bytes()) // tells the client why, if it is still there
			h.Conn.Close()
		}
		return nil, err
	}
	return h, nil
}
