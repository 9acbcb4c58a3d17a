package admin

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/internal/admin/status"
	"github.com/holdfast/holdfast/metrics"
)

// idle is the report of a proxy that has nothing to do.
func idle() status.Report { return status.NewRecorder().Report() }

func TestHandler(t *testing.T) {
	ready := func() error { return nil }
	draining := func() error { return errors.New("draining:\n30s left") }
	tests := []struct {
		name, method, path string
		ready              func() error
		status             int
		body               string
	}{
		{"health", "GET", "/healthz", ready, 200, "ok\n"},
		{"health while not ready", "GET", "/healthz", draining, 200, "ok\n"},
		{"health by HEAD", "HEAD", "/healthz", ready, 200, ""},
		{"ready", "GET", "/readyz", ready, 200, "ok\n"},
		{"not ready, with the reason in one line", "GET", "/readyz", draining, 503, "draining: 30s left\n"},
		{"not ready by HEAD", "HEAD", "/readyz", draining, 503, ""},
		{"nothing else", "GET", "/debug/pprof/", ready, 404, "404 page not found\n"},
		{"no other method", "POST", "/healthz", ready, 405, "Method Not Allowed\n"},
		{"no other method for metrics", "DELETE", "/metrics", ready, 405, "Method Not Allowed\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(New(prometheus.NewRegistry(), tt.ready, idle))
			defer server.Close()
			status, header, body := get(t, server, tt.method, tt.path, "")
			if status != tt.status || body != tt.body {
				t.Errorf("got %d %q, want %d %q", status, body, tt.status, tt.body)
			}
			if status != 404 && status != 405 && header.Get("Cache-Control") != "no-store" {
				t.Errorf("Cache-Control: %q", header.Get("Cache-Control"))
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	metrics.New(reg).SessionsCreated.Add(3)
	server := httptest.NewServer(New(reg, func() error { return nil }, idle))
	defer server.Close()
	tests := []struct{ name, accept, contentType, end string }{
		{"text", "", "text/plain; version=0.0.4;", "\n"},
		{"OpenMetrics", "application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0;", "\n# EOF\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, header, body := get(t, server, "GET", "/metrics", tt.accept)
			if status != 200 || !strings.HasPrefix(header.Get("Content-Type"), tt.contentType) {
				t.Errorf("got %d, %s", status, header.Get("Content-Type"))
			}
			if !strings.Contains(body, "\nholdfast_sessions_created_total 3") || !strings.HasSuffix(body, tt.end) {
				t.Errorf("got\n%s", body)
			}
		})
	}
}

// get gives a response, its body read.
func get(t *testing.T, server *httptest.Server, method, path, accept string) (status int, header http.Header, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	resp, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(data)
}
