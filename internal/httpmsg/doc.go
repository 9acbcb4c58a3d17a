// Package httpmsg has what a reverse proxy does with single HTTP messages: which headers pass, who
// the client is behind trusted proxies, the exact target of a request, timeouts for bodies,
// compression, WebSocket handshakes, CORS and refusals. It knows neither clients nor sessions.
//
//   - address.go finds the client's address, and header.go decides about headers and cookies.
//   - query.go reads targets and queries as they were written.
//   - body.go bounds how long a body may take, and finds requests whose end is doubtful.
//   - hijack.go answers WebSocket handshakes; compress.go, cors.go and refuse.go help to answer
//     others.
package httpmsg
