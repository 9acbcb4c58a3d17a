//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
)

// printer writes, and ignores errors: a closed output must not stop a run.
type printer struct{ w io.Writer }

func (p printer) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(p.w, format, args...)
}

// report is the machine-readable form of everything.
type report struct {
	System    system            `json:"system"`
	Short     bool              `json:"short"`
	Notes     []string          `json:"notes,omitempty"`
	Scenarios []*scenarioResult `json:"scenarios"`
}

// scenarioResult holds all figures of a scenario.
type scenarioResult struct {
	scenario *scenario

	Name     string         `json:"name"`
	Title    string         `json:"title"`
	Baseline string         `json:"baseline"` // the target that ratios refer to
	Targets  []targetResult `json:"targets"`
}

// targetResult holds the figures of a target. A failed target has no figures.
type targetResult struct {
	Name   string   `json:"name"`
	Failed string   `json:"failed,omitempty"` // the error of the first failed trial
	Rounds []values `json:"rounds,omitempty"` // by metric
	Median values   `json:"median,omitempty"`
	Ratio  values   `json:"ratio,omitempty"` // to the baseline, of metrics that have one
}

func newScenarioResult(s *scenario) *scenarioResult {
	r := &scenarioResult{scenario: s, Name: s.name, Title: s.title, Baseline: s.baseline}
	for _, t := range s.targets {
		r.Targets = append(r.Targets, targetResult{Name: t.name})
	}
	return r
}

// add adds a trial of the target with index i.
func (r *scenarioResult) add(i int, v values, err error) {
	t := &r.Targets[i]
	if err != nil && t.Failed == "" {
		t.Failed = err.Error()
	}
	t.Rounds = append(t.Rounds, v)
	r.summarise()
}

// summarise computes medians and ratios.
func (r *scenarioResult) summarise() {
	var base []values
	for i := range r.Targets {
		t := &r.Targets[i]
		if t.Failed != "" {
			t.Rounds = nil
		}
		if t.Name == r.Baseline {
			base = t.Rounds
		}
	}
	for i := range r.Targets {
		t := &r.Targets[i]
		t.Median, t.Ratio = make(values), make(values)
		for _, m := range r.scenario.metrics {
			v := column(t.Rounds, m.name)
			if len(v) == 0 {
				continue
			}
			t.Median[m.name] = median(v)
			if q, ok := ratio(t.Rounds, base, m.name); ok && m.ratio {
				t.Ratio[m.name] = q
			}
		}
	}
}

func (r *scenarioResult) failed() bool {
	for _, t := range r.Targets {
		if t.Failed != "" {
			return true
		}
	}
	return false
}

func (r *report) writeHeader(p printer) {
	s := r.System
	p.printf("%d CPUs (%s), Linux %s, %s; %s\n", s.CPUs, s.CPU, s.Kernel, s.Go, strings.Join(s.Programs, ", "))
	p.printf("Medians over the rounds. x: median of the ratios to HAProxy (or as the table says) within each round.\n")
	for _, v := range s.Holdfast {
		p.printf("Note: holdfast is run with %s\n", v)
	}
	for _, n := range r.Notes {
		p.printf("Note: %s\n", n)
	}
}

// writeTable prints a scenario's medians and ratios.
func (r *scenarioResult) writeTable(p printer) {
	p.printf("\n%s\n", r.Title)
	t := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := []string{""}
	for _, m := range r.scenario.metrics {
		row = append(row, m.title)
		if m.ratio {
			row = append(row, "x")
		}
	}
	writeRow(t, row)
	width := 0
	for _, target := range r.Targets {
		width = max(width, len(target.Name))
	}
	for _, target := range r.Targets {
		row = []string{fmt.Sprintf("%-*s", width, target.Name)}
		if target.Failed != "" {
			row = append(row, "failed")
		}
		for _, m := range r.scenario.metrics {
			if target.Failed != "" {
				break
			}
			row = append(row, number(target.Median, m.name, m.digits))
			if m.ratio {
				row = append(row, number(target.Ratio, m.name, 2))
			}
		}
		writeRow(t, row)
	}
	_ = t.Flush() // as printer
	for _, target := range r.Targets {
		if target.Failed != "" {
			p.printf("No figures for %s: %s\n", target.Name, target.Failed)
		}
	}
	if r.scenario.note != "" {
		p.printf("%s\n", r.scenario.note)
	}
	if r.Baseline != haproxyName && r.Baseline != "" {
		p.printf("x: against %s\n", r.Baseline)
	}
}

func writeRow(t *tabwriter.Writer, cells []string) {
	printer{t}.printf("%s\t\n", strings.Join(cells, "\t"))
}

func number(v values, name string, digits int) string {
	x, ok := v[name]
	if !ok {
		return "-"
	}
	return strconv.FormatFloat(x, 'f', digits, 64)
}

func (r *report) writeJSON(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
