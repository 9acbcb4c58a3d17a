package admin

import (
	"io"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// maxScrapes is how many scrapes are served at a time; more get a 503. One
// Prometheus needs one, a pair two.
const maxScrapes = 4

// New returns a handler of these, for GET and HEAD:
//
//	/metrics  the series of g, in Prometheus' text format or in OpenMetrics
//	/healthz  200 as long as the process runs
//	/readyz   200, or 503 and the error of ready: clients should go elsewhere
//	/         what else is here
//
// ready must be safe for concurrent use, and quick. Its error is shown to
// whoever asks.
func New(g prometheus.Gatherer, ready func() error) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: maxScrapes,
		ErrorHandling:       promhttp.ContinueOnError, // a part is better than nothing
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			reply(w, http.StatusServiceUnavailable, oneLine(err.Error()))
			return
		}
		reply(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, "holdfast: /metrics /healthz /readyz")
	})
	return mux
}

// reply writes one line, which no cache may keep.
func reply(w http.ResponseWriter, status int, line string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	io.WriteString(w, line+"\n") //nolint:errcheck // the asker is gone: nobody to tell
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
