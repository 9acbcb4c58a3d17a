// Package deploy_test checks that these files agree with each other, the configuration and the
// documents. test/e2e/test/deploy.test.js and fronts.test.js run them.
package deploy_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// decode reads a YAML file of one document.
func decode[T any](t *testing.T, name string) T {
	t.Helper()
	var v T
	if err := yaml.Unmarshal([]byte(read(t, name)), &v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

func TestPromtool(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("promtool is not installed: Debian's package prometheus has it")
		}
		t.Skip("promtool is not installed: Debian's package prometheus has it")
	}
	for _, args := range [][]string{
		{"test", "rules", "prometheus/rules_test.yaml"},
		{"check", "rules", "--lint-fatal", "prometheus/rules.yaml"},
		{"check", "config", "prometheus/prometheus.yaml"},
		{"check", "config", "--syntax-only", "compose/prometheus.yaml"},
	} {
		if out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

type rules struct {
	Groups []struct {
		Rules []struct {
			Record, Alert, Expr string
			Labels              map[string]string
			Annotations         map[string]string
		}
	}
}

// Each alert links to a section that says what to do.
func TestAlertsLeadToRunbooks(t *testing.T) {
	const page = "https://github.com/holdfast/holdfast/blob/main/docs/operations.md#"
	manual, tests := read(t, "../docs/operations.md"), read(t, "prometheus/rules_test.yaml")
	alerts := 0
	for _, group := range decode[rules](t, "prometheus/rules.yaml").Groups {
		for _, r := range group.Rules {
			if r.Alert == "" {
				continue
			}
			alerts++
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s: no summary or no description", r.Alert)
			}
			if s := r.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("%s: severity %q; want critical or warning", r.Alert, s)
			}
			if got, want := r.Annotations["runbook_url"], page+strings.ToLower(r.Alert); got != want {
				t.Errorf("%s: runbook_url %s; want %s", r.Alert, got, want)
			}
			if !regexp.MustCompile(`(?m)^#+ ` + r.Alert + `$`).MatchString(manual) {
				t.Errorf("%s: docs/operations.md has no heading of that name", r.Alert)
			}
			if !regexp.MustCompile(`alertname: ` + r.Alert + `\n +eval_time: \S+\n +exp_alerts:`).MatchString(tests) {
				t.Errorf("%s: rules_test.yaml does not make it fire", r.Alert)
			}
		}
	}
	if alerts == 0 {
		t.Error("no alerts")
	}
}

type panel struct {
	ID          int
	Type, Title string
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct {
		RefID, Expr string
		Datasource  struct{ Type, UID string }
	}
}

func TestDashboard(t *testing.T) {
	var dashboard struct {
		UID           string
		SchemaVersion int
		Templating    struct {
			List []struct{ Name, Type string }
		}
		Panels []panel
	}
	if err := json.Unmarshal([]byte(read(t, "grafana/holdfast.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	if v := dashboard.Templating.List[0]; v.Name != "datasource" || v.Type != "datasource" {
		t.Errorf("the first variable is %v; want the data source", v)
	}
	ids, taken := map[int]string{}, map[[2]int]string{}
	for _, p := range dashboard.Panels {
		if other, ok := ids[p.ID]; ok {
			t.Errorf("%q and %q have the same id", p.Title, other)
		}
		ids[p.ID] = p.Title
		g := p.GridPos
		if g.X+g.W > 24 {
			t.Errorf("%q sticks out of the grid", p.Title)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok {
					t.Fatalf("%q overlaps %q", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			if target.Datasource.UID != "${datasource}" {
				t.Errorf("%q: data source %q; want the variable", p.Title, target.Datasource.UID)
			}
			if !strings.Contains(target.Expr, `{job="$job", instance=~"$instance"`) {
				t.Errorf("%q: %s does not go by the variables", p.Title, target.Expr)
			}
		}
	}
}
