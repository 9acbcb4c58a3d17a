package proxy

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
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
