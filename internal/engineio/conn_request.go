package engineio

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
	"time"
)

const (
	// newSID is how long a server may take to know a session that it has just opened.
	newSID = 3 * time.Second
	// newSIDPause is the time between two attempts.
	newSIDPause = 20 * time.Millisecond
)

// laterRoundTrip makes a polling request with the sid. Shortly after the handshake, a request that
// is refused because the server does not know the sid is repeated: in a cluster the process that
// chooses the worker may learn of the sid a little later than this client (@socket.io/sticky). The
// server has not handled such a request. Once one is accepted, k repeats none.
func (c *Conn) laterRoundTrip(ctx context.Context, k *keepAlive, method, query string, body []byte, read bodyReader) (*response, []byte, error) {
	for {
		resp, answer, err := c.roundTrip(ctx, k, method, query, body, read)
		if err != nil || k.sidKnown || resp.status != http.StatusBadRequest || time.Since(c.poll.handshakeAt) > newSID ||
			!bytes.HasPrefix(answer, []byte(`{"code":1,`)) {
			k.sidKnown = true
			return resp, answer, err
		}
		select {
		case <-time.After(newSIDPause):
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// roundTrip makes one polling request.
func (c *Conn) roundTrip(ctx context.Context, k *keepAlive, method, query string, body []byte, read bodyReader) (*response, []byte, error) {
	r := &c.dialed.request
	b := headBuffers.Get().(*bytes.Buffer)
	b.Reset()
	b.WriteString(method + " " + r.Path)
	if query != "" {
		b.WriteString("?" + query)
	}
	b.WriteString(" HTTP/1.1\r\nHost: " + r.Host + "\r\n")
	_ = r.Header.Write(b) // writing to a Buffer does not fail
	if method == http.MethodPost {
		b.WriteString("Content-Type: " + c.poll.contentType() + "\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n")
	}
	b.WriteString("\r\n")
	b.Write(body)
	request := bytes.Clone(b.Bytes()) // a poll takes long, and must not keep the buffer
	headBuffers.Put(b)
	return k.do(ctx, method, request, read)
}

// nextQueryLocked returns the query of the next polling request.
func (c *Conn) nextQueryLocked() string {
	c.poll.requests++
	return laterQuery(c.dialed.request.RawQuery, "polling", c.handshake.SID, "hf"+strconv.FormatUint(c.poll.requests, 36))
}
