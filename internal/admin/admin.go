package admin

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfast/holdfast/internal/admin/status"
)

// maxScrapes bounds the concurrent scrapes; further ones get a 503. Each Prometheus server needs
// one.
const maxScrapes = 4

// New returns a handler for GET and HEAD of these:
//
//	/            the status page for browsers, a text summary for others
//	/api/status  the page's data as JSON: what report returns
//	/metrics     the series of g, in Prometheus's text format or in OpenMetrics
//	/healthz     200 while the process runs
//	/readyz      200, or 503 and ready's error if clients should go elsewhere
//
// ready and report must be fast and safe for concurrent use. Anyone who can
// connect sees what they return.
func New(g prometheus.Gatherer, ready func() error, report func() status.Report) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: maxScrapes,
		ErrorHandling:       promhttp.ContinueOnError, // some series are better than none
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		replyLine(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			replyLine(w, http.StatusServiceUnavailable, oneLine(err.Error()))
			return
		}
		replyLine(w, http.StatusOK, "ok")
	})
	handlePage(mux, report)
	return mux
}

// replyLine responds with one line of text.
func replyLine(w http.ResponseWriter, code int, line string) {
	reply(w, code, "text/plain; charset=utf-8", []byte(line+"\n"))
}

// reply writes a response that must not be cached.
func reply(w http.ResponseWriter, code int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	w.Write(body) //nolint:errcheck // the client is gone
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
