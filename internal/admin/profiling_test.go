package admin

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestProfilingIsBesideTheRest(t *testing.T) {
	h := WithProfiling(New(prometheus.NewRegistry(), func() error { return errors.New("draining") }, idle))
	server := httptest.NewServer(h)
	defer server.Close()
	for path, want := range map[string]string{
		"/debug/pprof/":                  "goroutine",
		"/debug/pprof/goroutine?debug=1": "goroutine profile",
		"/healthz":                       "ok",
		"/readyz":                        "draining",
	} {
		resp, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s: %v, %.100q, want %q in it", path, err, body, want)
		}
	}
}
