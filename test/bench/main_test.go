//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/steady"
)

// TestMain lets the test binary be its own server and raw copy.
func TestMain(m *testing.M) {
	if isChild, err := runChild(os.Args[1:]); isChild {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	steady.VerifyTestMain(m)
}

// tiny are flags for a run of 10 clients and little time.
func tiny(more ...string) []string {
	return append([]string{
		"-rounds=1", "-slow-rounds=1", "-duration=50ms", "-warmup=10ms", "-settle=100ms", "-clients=10", "-in-flight=4",
		"-broadcast-clients=10", "-broadcast-payloads=32,100000", "-idle-clients=10", "-connect-clients=10",
		"-connect-at-once=4", "-storm-clients=10", "-storm-missed=3", "-handover-clients=10", "-targets=direct,raw",
	}, more...)
}

func wantNoChildren(t *testing.T) {
	t.Helper()
	if left := childrenOf(os.Getpid()); len(left) > 0 {
		t.Errorf("processes %v were not stopped", left)
	}
}

func TestTinyRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "out.json")
	var out, progress strings.Builder
	args := tiny("-scenarios=echo,pipeline,broadcast,idle,connect", "-json", file)
	if err := run(t.Context(), args, &out, &progress); err != nil {
		t.Fatalf("run: %v\n%s%s", err, &progress, &out)
	}
	wantNoChildren(t)

	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{ // by scenario, what raw must have
		"echo-1":           {proxyCPU, serverCPU, rate, "latency_p50_us", "latency_p99_us"},
		"echo-10":          {proxyCPU, serverCPU, rate, "latency_p50_us", "latency_p99_us"},
		"pipeline":         {proxyCPU, serverCPU, rate},
		"broadcast-32":     {proxyCPU, serverCPU, rate},
		"broadcast-100000": {proxyCPU, serverCPU, rate},
		"idle":             {"rss_mb", "rss_empty_mb"},
		"connect":          {proxyCPU, serverCPU, rate},
	}
	if want := "parked is skipped: none of the targets supports it"; len(r.Notes) != 1 || r.Notes[0] != want {
		t.Errorf("notes = %q, want one: %s", r.Notes, want)
	}
	for _, s := range r.Scenarios {
		metrics, ok := want[s.Name]
		if !ok {
			t.Errorf("scenario %q was not asked for", s.Name)
		}
		delete(want, s.Name)
		for _, tg := range s.Targets {
			if tg.Name != rawName {
				continue
			}
			for _, m := range metrics {
				if tg.Median[m] <= 0 {
					t.Errorf("%s, raw: %s = %v, want more than 0", s.Name, m, tg.Median[m])
				}
			}
		}
		if !strings.Contains(out.String(), s.Title) {
			t.Errorf("no table has the title %q", s.Title)
		}
	}
	if len(want) > 0 {
		t.Errorf("not reported: %v", want)
	}
}

// newTestEnv is for trials of a test's own targets.
func newTestEnv(t *testing.T) *env {
	t.Helper()
	o, err := parseOptions(tiny(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	e, err := newEnv(t.Context(), o, printer{io.Discard}, printer{io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	return e
}

func TestStormWithoutRecovery(t *testing.T) {
	e := newTestEnv(t)
	s := &scenario{run: storm}
	v, err := runTrial(t.Context(), e, s, target{name: directName})
	if err != nil || v["recovered"] != 0 || v["storm_s"] <= 0 {
		t.Errorf("storm on a server without recovery = %v, %v; want 0 recovered", v, err)
	}
	// A target that wrongly claims to have recovered is detected.
	v, err = runTrial(t.Context(), e, s, target{name: directName, recover: true})
	if !errors.Is(err, errTrial) || v != nil {
		t.Errorf("storm on a server that should have recovery = %v, %v; want no figures, errTrial", v, err)
	}
}

func TestProxyThatDiesFailsTheTrial(t *testing.T) {
	e := newTestEnv(t)
	s := &scenario{run: func(tr *trial) (values, error) {
		g := tr.gen
		if err := g.connect(tr.ctx, g.add(10), 10); err != nil {
			t.Errorf("connect: %v", err)
		}
		tr.proxy.signal(os.Kill)
		return values{rate: 1}, g.pause(tr.ctx, time.Second)
	}}
	v, err := runTrial(t.Context(), e, s, target{name: rawName, proxy: startRawCopy})
	if !errors.Is(err, errTrial) || v != nil {
		t.Errorf("trial = %v, %v; want no figures, errTrial", v, err)
	}
	wantNoChildren(t)
}

func TestFailedTargetHasNoFigures(t *testing.T) {
	r := newScenarioResult(&scenario{
		name: "x", title: "X", baseline: "a", metrics: []metric{{"m", "M", 1, true}},
		targets: []target{{name: "a"}, {name: "b"}},
	})
	r.add(0, values{"m": 4}, nil)
	r.add(1, values{"m": 2}, nil)
	r.add(0, values{"m": 8}, nil)
	r.add(1, nil, fmt.Errorf("%w: 3 events were lost", errTrial))
	var out strings.Builder
	r.writeTable(printer{&out})
	text, err := json.Marshal(r.Targets[1])
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"name":"b","failed":"refused: 3 events were lost"}`; string(text) != want || !r.failed() {
		t.Errorf("result = %s, want %s", text, want)
	}
	for _, want := range []string{"a     6.0  1.00", "failed", "No figures for b: refused: 3 events were lost"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &out)
		}
	}
}

func TestInterruptStopsEverything(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	var out strings.Builder
	start := time.Now()
	err := run(ctx, tiny("-scenarios=echo", "-targets=raw", "-duration=1m"), &out, io.Discard)
	if !errors.Is(err, context.Canceled) || time.Since(start) > 30*time.Second { // half of what it would take
		t.Errorf("run = %v after %v, want context.Canceled soon", err, time.Since(start))
	}
	if strings.Contains(out.String(), rawName) {
		t.Errorf("figures of an interrupted run were printed:\n%s", &out)
	}
	wantNoChildren(t)
}
