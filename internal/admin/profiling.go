package admin

import (
	"net/http"
	"net/http/pprof"
)

// WithProfiling adds the Go runtime's profiles to a handler, under /debug/pprof/. A profile costs the process some of
// its time while it is taken, and a heap dump shows what is in memory: it is for those who may see all.
func WithProfiling(h http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", h)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	return mux
}
