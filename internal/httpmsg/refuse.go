package httpmsg

import (
	"encoding/json"
	"net/http"
)

// WriteError answers a request with an error that holdfast itself raises, in engine.io's format.
func WriteError(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	body, err := json.Marshal(struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{status, message})
	if err != nil {
		panic(err) // these types can always be marshalled
	}
	_, _ = w.Write(body) // the client may have gone
}

// RefuseForNow refuses a request that may succeed when the client retries a second later.
func RefuseForNow(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Retry-After", "1")
	WriteError(w, status, message)
}

// RefuseDraining refuses a request that a load balancer can send to another replica.
func RefuseDraining(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	w.Header().Set("Retry-After", "1")
	WriteError(w, http.StatusServiceUnavailable, "holdfast is shutting down")
}
