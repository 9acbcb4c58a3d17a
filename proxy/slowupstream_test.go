package proxy

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/config"
)

// slowUpstream is a server that answers each handshake only after a send on answer. asked receives
// the handshake's context.
func slowUpstream(t *testing.T) (url string, s *script, asked chan context.Context, answer chan struct{}) {
	t.Helper()
	s = newScript(t)
	asked, answer = make(chan context.Context, 10), make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Context()
		select {
		case <-answer:
			s.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(up.Close)
	return up.URL, s, asked, answer
}

// redialingRig returns a rig with a client whose primary link has ended, and the handshake for
// another one, which is not answered.
func redialingRig(t *testing.T, change func(*config.Config)) (r *rig, c *peer, upstream context.Context) {
	t.Helper()
	url, s, asked, answer := slowUpstream(t)
	r = newRig(t, func(c *config.Config) {
		c.Upstream.URL, c.Upstream.HandshakeTimeout = config.URLs{url}, time.Minute
		if change != nil {
			change(c)
		}
	})
	go func() { // ends with the first handshake
		<-asked
		answer <- struct{}{}
	}()
	c = r.dial()
	first := s.accept()
	c.send("40/a,", "40/b,")
	first.want("40/a,", "40/b,")
	first.send(`40/a,{"sid":"a1"}`, `40/b,{"sid":"b1"}`)
	c.want("40/a,", "40/b,")
	c.send("41/a,", "40/a,")
	return r, c, <-asked
}

func wantCancelled(t *testing.T, upstream context.Context) {
	t.Helper()
	select {
	case <-upstream.Done():
	case <-time.After(30 * time.Second): // less than the handshake timeout
		t.Error("the dial was not cancelled")
	}
}
