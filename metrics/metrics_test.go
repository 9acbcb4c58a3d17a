package metrics

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast/holdfast/internal/reason"
)

// scrape returns what Prometheus reads if it accepts the format accept.
func scrape(t *testing.T, reg *prometheus.Registry, accept string) []byte {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true}).ServeHTTP(w, r)
	body, err := io.ReadAll(w.Result().Body)
	if err != nil || w.Code != http.StatusOK {
		t.Fatal(w.Code, err)
	}
	return body
}

func TestPromtool(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed: Debian's package prometheus has it")
	}
	reg := prometheus.NewPedanticRegistry()
	New(reg)
	check := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	check.Stdin = bytes.NewReader(scrape(t, reg, "text/plain"))
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

func TestLint(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	New(reg)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// OpenMetrics calls a counter's family by its name without _total, which must
// not be another family's name.
func TestFamiliesAreDistinctInOpenMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	New(reg)
	seen := map[string]bool{}
	for line := range strings.Lines(string(scrape(t, reg, "application/openmetrics-text; version=1.0.0"))) {
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ = strings.Cut(name, " ")
			if seen[name] {
				t.Errorf("two families are called %s", name)
			}
			seen[name] = true
		}
	}
	if len(seen) == 0 {
		t.Error("no OpenMetrics")
	}
}

func TestTwoRegistries(t *testing.T) {
	a, b := New(prometheus.NewRegistry()), New(prometheus.NewRegistry())
	a.SessionsCreated.Inc()
	if got := testutil.ToFloat64(b.SessionsCreated); got != 0 {
		t.Errorf("a count in one registry is %v in the other", got)
	}
}

func TestReasons(t *testing.T) {
	tests := []struct {
		name  string
		count func(m *Metrics)
		want  []string // all series that are not 0
	}{
		{"resumed", func(m *Metrics) { m.Recovered(reason.Resumed) }, []string{
			`holdfast_recoveries_total{reason="resumed",result="recovered"} 1`,
		}},
		{"takeover", func(m *Metrics) { m.Recovered(reason.Takeover) }, []string{
			`holdfast_recoveries_total{reason="takeover",result="recovered"} 1`,
			`holdfast_takeovers_total 1`,
		}},
		{"failed", func(m *Metrics) { m.RecoveryFailed(reason.Evicted) }, []string{
			`holdfast_recoveries_total{reason="evicted",result="failed"} 1`,
		}},
		{"parked", func(m *Metrics) { m.Parked(reason.GoingAway) }, []string{
			`holdfast_parkings_total{reason="going_away"} 1`,
		}},
		{"expired", func(m *Metrics) { m.SessionClosed(reason.Expired) }, []string{
			`holdfast_expirations_total 1`,
			`holdfast_sessions_closed_total{reason="expired"} 1`,
		}},
		{"evicted", func(m *Metrics) { m.SessionClosed(reason.Evicted) }, []string{
			`holdfast_evictions_total 1`,
			`holdfast_sessions_closed_total{reason="evicted"} 1`,
		}},
		{"closed otherwise", func(m *Metrics) { m.SessionClosed(reason.UpstreamLost) }, []string{
			`holdfast_sessions_closed_total{reason="upstream_lost"} 1`,
		}},
		{"fields", func(m *Metrics) {
			m.Clients.WebSocket.Inc()
			m.Sessions.Parked.Add(2)
			m.Packets.Out.Add(3)
			m.Dials.Timeout.Inc()
			m.HeartbeatTimeouts.Upstream.Inc()
			m.Passthrough.WebSocket.Inc()
			m.Links.Polling.Inc()
			m.BufferBudget.Set(4)
		}, []string{
			`holdfast_buffer_budget_bytes 4`,
			`holdfast_clients{transport="websocket"} 1`,
			`holdfast_heartbeat_timeouts_total{side="upstream"} 1`,
			`holdfast_links{transport="polling"} 1`,
			`holdfast_packets_total{direction="out"} 3`,
			`holdfast_passthrough_requests_total{kind="websocket"} 1`,
			`holdfast_sessions{state="parked"} 2`,
			`holdfast_upstream_dials_total{result="timeout"} 1`,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reg := prometheus.NewPedanticRegistry()
			tt.count(New(reg))
			var got []string
			for line := range strings.Lines(string(scrape(t, reg, "text/plain"))) {
				line = strings.TrimSpace(line)
				if !strings.HasPrefix(line, "#") && !strings.HasSuffix(line, " 0") && !strings.HasPrefix(line, "holdfast_build_info") {
					got = append(got, line)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

// Every listed reason is a series from the start, so that counting one adds none.
func TestEveryReasonExistsFromTheStart(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := New(reg)
	before, err := testutil.GatherAndCount(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range reason.Recovered() {
		m.Recovered(r)
	}
	for _, r := range reason.Failed() {
		m.RecoveryFailed(r)
	}
	for _, r := range reason.Parked() {
		m.Parked(r)
	}
	for _, r := range reason.Closed() {
		m.SessionClosed(r)
	}
	if after, err := testutil.GatherAndCount(reg); after != before || err != nil {
		t.Errorf("%d series became %d, %v", before, after, err)
	}
}

// Every reason that closes a session is also a reason for a failed recovery,
// unless the session could not be recovered anyway.
func TestCloseReasonsAreFailures(t *testing.T) {
	neverReturned := []reason.Reason{reason.NotParked}
	for _, r := range reason.Closed() {
		if slices.Contains(reason.Failed(), r) == slices.Contains(neverReturned, r) {
			t.Errorf("%s: in reason.Failed: %v", r, slices.Contains(reason.Failed(), r))
		}
	}
}

// rows returns each family's row in docs/metrics.md by the family's name.
func rows(t *testing.T) map[string]string {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	New(reg).SetUpstreamServers([]Server{{URL: "http://127.0.0.1:3000", State: "up"}})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, f := range families {
		values := map[string]map[string]bool{}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if values[l.GetName()] == nil {
					values[l.GetName()] = map[string]bool{}
				}
				values[l.GetName()][l.GetValue()] = true
			}
		}
		var labels []string
		for _, name := range slices.Sorted(maps.Keys(values)) {
			label := "`" + name + "`"
			// Reasons have a table of their own.
			if name != "reason" && name != "server" && f.GetName() != "holdfast_build_info" {
				label += ": " + strings.Join(slices.Sorted(maps.Keys(values[name])), ", ")
			}
			labels = append(labels, label)
		}
		rows[f.GetName()] = fmt.Sprintf("| `%s` | %s | %s | %s |", f.GetName(),
			strings.ToLower(f.GetType().String()), strings.Join(labels, "; "), f.GetHelp())
	}
	return rows
}

// docs/metrics.md has exactly one row for each family.
func TestMetricsPage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(holdfast_[a-z0-9_]+)` .*$").FindAllStringSubmatch(string(page), -1) {
		if documented[m[1]] != "" {
			t.Errorf("two rows for %s", m[1])
		}
		documented[m[1]] = m[0]
	}
	want := rows(t)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if documented[name] != want[name] {
			t.Errorf("%s\n got %s\nwant %s", name, documented[name], want[name])
		}
	}
	for name := range documented {
		if want[name] == "" {
			t.Errorf("%s is documented, but does not exist", name)
		}
	}
	// Names in examples exist, too.
	for _, name := range regexp.MustCompile(`holdfast_[a-z0-9_]+`).FindAllString(string(page), -1) {
		base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		if want[name] == "" && want[base] == "" {
			t.Errorf("%s is mentioned, but does not exist", name)
		}
	}
}

// docs/metrics.md says where every reason can occur, and lists no other reason.
func TestReasonsOnMetricsPage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Reasons\n")
	documented := map[string][]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([a-z, ]+) \\| (.+) \\|$").FindAllStringSubmatch(section, -1) {
		documented[m[1]] = strings.Split(m[2], ", ")
		if got, want := reason.Reason(m[1]).Meaning(), strings.ReplaceAll(m[3], "`", ""); got != want {
			t.Errorf("%s.Meaning() = %q, the page says %q", m[1], got, want)
		}
	}
	want := map[string][]string{}
	for _, list := range []struct {
		name    string
		reasons []reason.Reason
	}{
		{"recovered", reason.Recovered()},
		{"failed", reason.Failed()},
		{"parked", reason.Parked()},
		{"closed", reason.Closed()},
	} {
		for _, r := range list.reasons {
			want[string(r)] = append(want[string(r)], list.name)
		}
	}
	if !maps.EqualFunc(documented, want, slices.Equal) {
		t.Errorf("got  %v\nwant %v", documented, want)
	}
}

func BenchmarkPacket(b *testing.B) {
	m := New(prometheus.NewRegistry())
	b.ReportAllocs()
	for b.Loop() {
		m.Packets.Out.Add(1)
		m.BufferedBytes.Add(100)
	}
}
