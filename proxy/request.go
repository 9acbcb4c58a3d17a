package proxy

import (
	"context"
	"net/http"
	"net/url"

	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/httpmsg"
)

// knownBySID returns r with the answer to give if the upstream refuses the sid. The upstream does
// not know it, because the sid is holdfast's own.
func (c *client) knownBySID(r *http.Request, transport string) *http.Request {
	a := engineio.ErrorAnswer(engineio.CodeBadRequest) // for a transport that the client does not use
	current := "polling"
	if c.transport.isWebSocket() {
		current = "websocket"
	}
	switch {
	case httpmsg.IsUpgrade(r):
		a = engineio.Answer{Status: http.StatusBadRequest, Body: []byte("Bad Request"), Type: "text/html"}
	case transport == current:
		a = engineio.Answer{Status: http.StatusInternalServerError}
	case transport != "polling" && transport != "websocket" && r.Method == http.MethodHead:
		return r // the upstream refuses the transport, not the sid; without a body the two look alike
	}
	return r.WithContext(context.WithValue(r.Context(), ownSIDKey{}, a))
}

// serve serves a request that names the client's sid. The caller has checked it with handles.
func (c *client) serve(w http.ResponseWriter, r *http.Request, q url.Values) {
	defer c.recoverRequest()
	transport, upgrading := q.Get("transport"), httpmsg.IsUpgrade(r)
	switch {
	case c.isV3() && c.keyed.outdated(q):
		c.answer(w, r, engineio.ErrorAnswer(engineio.CodeUnknownSID))
	case transport == "websocket" && upgrading:
		upgraded, err := httpmsg.Upgrade(w, r, nil)
		if err != nil {
			c.deps.log.Debug("websocket upgrade failed", "client", c.seq, "error", err)
			return
		}
		if !c.sock.ServeProbe(upgraded.Conn, upgraded.Initial, upgraded.Answer.Bytes()) {
			c.deps.replicas.movedBeforeProbe(r, c, upgraded)
		}
	case transport == "websocket", upgrading:
		c.answer(w, r, engineio.ErrorAnswer(engineio.CodeBadRequest))
	case r.Method == http.MethodGet:
		a, ok := c.sock.Poll(r.Context(), q.Get("t"))
		c.answerPolling(w, r, a, ok)
	default: // a POST
		a, ok := c.sock.Post(r.Context(), q.Get("t"), r.Header.Get("Content-Type"), r.ContentLength, r.Body)
		c.answerPolling(w, r, a, ok)
	}
}

// answerPolling answers a poll or a POST with what the Socket has returned.
func (c *client) answerPolling(w http.ResponseWriter, r *http.Request, a engineio.Answer, ok bool) {
	if !ok {
		noAnswer()
	}
	if !c.deps.replicas.movedMeanwhile(w, r, c, a) {
		c.answer(w, r, a)
	}
}

// answer writes a to a request of the client, with the headers that the upstream wants on polling
// responses.
func (c *client) answer(w http.ResponseWriter, r *http.Request, a engineio.Answer) {
	httpmsg.CopyHeader(w.Header(), c.pollHeaders)
	writeAnswer(c.deps.log, w, r, a)
}
