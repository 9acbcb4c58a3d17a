package admin

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfast/holdfast/internal/admin/status"
)

// maxScrapes is how many scrapes are served at a time; more get a 503. One
// Prometheus needs one, a pair two.
const maxScrapes = 4

// New returns a handler of these, for GET and HEAD:
//
//	/            the status page for browsers, a summary in text for others
//	/api/status  the page's data, as JSON: what report returns
//	/metrics     the series of g, in Prometheus' text format or in OpenMetrics
//	/healthz     200 as long as the process runs
//	/readyz      200, or 503 and the error of ready: clients should go elsewhere
//
// ready and report must be safe for concurrent use, and quick. What they return
// is shown to whoever asks.
func New(g prometheus.Gatherer, ready func() error, report func() status.Report) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: maxScrapes,
		ErrorHandling:       promhttp.ContinueOnError, // a part is better than nothing
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

// replyLine writes one line.
func replyLine(w http.ResponseWriter, code int, line string) {
	reply(w, code, "text/plain; charset=utf-8", []byte(line+"\n"))
}

// reply writes a body, which no cache may keep.
func reply(w http.ResponseWriter, code int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	w.Write(body) //nolint:errcheck // the asker is gone: nobody to tell
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
