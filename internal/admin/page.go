package admin

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/holdfast/holdfast/internal/admin/status"
)

//go:embed page
var page embed.FS

// pagePolicy allows the page to use its own files and its own listener only.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

var assetTypes = map[string]string{
	".css": "text/css; charset=utf-8",
	".js":  "text/javascript; charset=utf-8",
	".svg": "image/svg+xml",
}

// handlePage serves the status page, its assets and its data.
func handlePage(mux *http.ServeMux, report func() status.Report) {
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Accept")
		if !wantsHTML(r) {
			reply(w, http.StatusOK, "text/plain; charset=utf-8", summary(report()))
			return
		}
		index, err := page.ReadFile("page/index.html")
		if err != nil {
			panic(err) // impossible: it is embedded
		}
		reply(w, http.StatusOK, "text/html; charset=utf-8", index)
	})
	mux.HandleFunc("GET /assets/{name}", func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("name")
		data, err := page.ReadFile("page/" + name)
		kind := assetTypes[path.Ext(name)]
		if err != nil || kind == "" {
			http.NotFound(w, r)
			return
		}
		reply(w, http.StatusOK, kind, data)
	})
	mux.HandleFunc("GET /api/status", func(w http.ResponseWriter, _ *http.Request) {
		data, err := json.Marshal(report())
		if err != nil {
			panic(err) // strings, numbers and times always encode
		}
		reply(w, http.StatusOK, "application/json", append(data, '\n'))
	})
}

// wantsHTML distinguishes browsers from curl and similar tools.
func wantsHTML(r *http.Request) bool {
	return strings.Contains(strings.Join(r.Header.Values("Accept"), ","), "text/html")
}

// summary formats the report as a few lines for a terminal.
func summary(s status.Report) []byte {
	var b bytes.Buffer
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-11s "+format+"\n", append([]any{name}, args...)...)
	}
	line("holdfast", "%s, %s, up %v", s.Holdfast.Version, s.Holdfast.State,
		time.Duration(s.Holdfast.UptimeSeconds*float64(time.Second)).Round(time.Second))
	line("sessions", "%d live, %d parked (maximum %d)", s.Sessions.Live, s.Sessions.Parked, s.Sessions.MaxParked)
	line("clients", "%d WebSocket, %d polling", s.Clients.WebSocket, s.Clients.Polling)
	line("recoveries", "%d recovered, %d failed%s", s.Recoveries.Recovered, s.Recoveries.Failed, failures(s))
	line("buffer", "%d packets, %d of %d bytes", s.Buffer.Packets, s.Buffer.Bytes, s.Buffer.BudgetBytes)
	line("upstream", "%s, %s", s.Upstream.Health, s.Upstream.URL)
	if n := len(s.Upstream.Servers); n != 1 {
		line("servers", "%s", servers(s.Upstream.Servers))
	}
	if s.Cluster.ID != "" {
		line("replicas", "%s; %d clients relayed to others, %d from others", peers(s.Cluster.Peers), s.Cluster.RelaysEdge, s.Cluster.RelaysOwner)
	}
	line("see", "/api/status /metrics /healthz /readyz, or this address in a browser")
	return b.Bytes()
}

// servers says how many servers are in each state.
func servers(list []status.Server) string {
	counts := make(map[string]int)
	for _, server := range list {
		counts[server.State]++
	}
	return states(counts)
}

// peers says how many other replicas are in each state.
func peers(list []status.Peer) string {
	counts := make(map[string]int)
	for _, p := range list {
		counts[p.State]++
	}
	return states(counts)
}

// states lists how many of something are in each state.
func states(counts map[string]int) string {
	var parts []string
	for _, state := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[state], state))
	}
	if parts == nil {
		return "none is known"
	}
	return strings.Join(parts, ", ")
}

// failures lists the reasons for failed recoveries with their counts.
func failures(s status.Report) string {
	var parts []string
	for _, r := range s.Recoveries.Reasons {
		if r.Result == "failed" && r.Count > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", r.Reason, r.Count))
		}
	}
	if parts == nil {
		return ""
	}
	return ": " + strings.Join(parts, ", ")
}
