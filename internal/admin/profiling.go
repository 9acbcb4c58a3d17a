package admin

import (
	"net/http"
	"net/http/pprof"
)

// WithProfiling adds the Go runtime's profiles to a handler, under /debug/pprof/.
// Taking a profile slows the process down, and a heap dump reveals what is in
// memory, so the listener must not be public.
func WithProfiling(h http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", h)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	return mux
}
