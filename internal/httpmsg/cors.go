package httpmsg

import "net/http"

// CORSHeader returns the headers that engine.io 3 puts on polling answers. It allows every origin
// to read them. The server still decides about the origin: it sees it when holdfast connects.
func CORSHeader(r *http.Request) http.Header {
	h := http.Header{}
	if origin := r.Header.Get("Origin"); origin != "" && !IsUpgrade(r) {
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Allow-Credentials", "true")
		h.Set("Vary", "Origin")
	}
	return h
}

// AnswerPreflight answers a CORS preflight for a client whose handshake holdfast has answered. The
// server does not know its sid. It has answered the preflight of the handshake.
func AnswerPreflight(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	CopyHeader(h, CORSHeader(r))
	h.Set("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
	if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" {
		h.Set("Access-Control-Allow-Headers", asked)
	}
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusOK)
}
