//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
)

// env is shared by all trials.
type env struct {
	opts      *options
	out       printer // tables
	progress  printer
	self      string // this program
	tmp       string // a directory for everything
	fileLimit int    // open files, of each process
	notes     notes
}

// notes say what a run leaves out, and why.
type notes []string

func (n *notes) add(format string, args ...any) { *n = append(*n, fmt.Sprintf(format, args...)) }

// newEnv prepares everything. The caller must call close.
func newEnv(ctx context.Context, o *options, out, progress printer) (*env, error) {
	e := &env{opts: o, out: out, progress: progress}
	var err error
	if e.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if e.fileLimit, err = raiseFileLimit(); err != nil {
		return nil, err
	}
	o.fit(e.fileLimit, e.notes.add)
	if err := o.findPrograms(e.notes.add); err != nil {
		return nil, err
	}
	if e.tmp, err = os.MkdirTemp("", "holdfast-bench"); err != nil {
		return nil, err
	}
	if o.hasHoldfast() && o.holdfast == "" {
		if err := e.buildHoldfast(ctx); err != nil {
			e.close()
			return nil, err
		}
	}
	return e, nil
}

func (e *env) close() { os.RemoveAll(e.tmp) } //nolint:errcheck // a temporary directory

// raiseFileLimit raises the limit of open files to the hard limit, for this
// process and its children, and returns it.
func raiseFileLimit() (int, error) {
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	if err == nil {
		limit.Cur = limit.Max
		err = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
	if err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	return int(min(limit.Cur, 1<<20)), nil
}

// holdfastModule is the package that holdfast is built from.
const holdfastModule = "github.com/holdfast/holdfast"

func (e *env) buildHoldfast(ctx context.Context) error {
	e.progress.printf("building holdfast\n")
	e.opts.holdfast = filepath.Join(e.tmp, "holdfast")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", e.opts.holdfast, holdfastModule).CombinedOutput()
	if err != nil {
		return fmt.Errorf("building holdfast (or set -holdfast): %w\n%s", err, out)
	}
	return nil
}

// system describes the machine and the programs.
type system struct {
	CPUs      int      `json:"cpus"`
	CPU       string   `json:"cpu"`
	Kernel    string   `json:"kernel"`
	Go        string   `json:"go"`
	Programs  []string `json:"programs"`
	Holdfast  []string `json:"holdfast_variables,omitempty"`
	FileLimit int      `json:"file_limit"`
}

func (e *env) system(ctx context.Context) system {
	s := system{
		CPUs: runtime.NumCPU(), CPU: cpuModel(), Kernel: kernelRelease(), Go: runtime.Version(),
		Holdfast: holdfastVariables(), FileLimit: e.fileLimit,
	}
	for _, name := range e.opts.targets {
		switch name {
		case nginxName:
			s.Programs = append(s.Programs, fmt.Sprintf("%s (workers: %d)",
				versionOf(ctx, `nginx/\S+`, e.opts.nginx, "-v"), e.opts.nginxWorkers))
		case haproxyName:
			s.Programs = append(s.Programs, fmt.Sprintf("%s (threads: %d)",
				versionOf(ctx, `HAProxy version \S+`, e.opts.haproxy, "-v"), e.opts.haproxyThreads))
		case holdfastName:
			s.Programs = append(s.Programs, versionOf(ctx, `holdfast .+`, e.opts.holdfast, "-version"))
		}
	}
	return s
}

// versionOf runs a program, and returns the match in its output.
func versionOf(ctx context.Context, pattern, program string, args ...string) string {
	// The output matters, not the exit status.
	out, _ := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if v := regexp.MustCompile(pattern).Find(out); v != nil {
		return string(v)
	}
	return filepath.Base(program) + ", version unknown"
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func kernelRelease() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// errFailed is returned if trials failed, after the failures were printed.
var errFailed = errors.New("some runs failed and have no figures")

// runAll runs all scenarios, and prints each result.
func (e *env) runAll(ctx context.Context) error {
	r := &report{System: e.system(ctx), Short: e.opts.short}
	scenarios := scenarios(e.opts, &e.notes)
	r.Notes = e.notes
	r.writeHeader(e.out)
	failed := false
	for _, s := range scenarios {
		res, err := e.runScenario(ctx, s)
		if err != nil {
			return err
		}
		failed = failed || res.failed()
		res.writeTable(e.out)
		r.Scenarios = append(r.Scenarios, res)
	}
	if e.opts.json != "" {
		if err := r.writeJSON(e.opts.json); err != nil {
			return err
		}
	}
	if failed {
		return errFailed
	}
	return nil
}

// runScenario runs a scenario against all of its targets, in rounds.
func (e *env) runScenario(ctx context.Context, s *scenario) (*scenarioResult, error) {
	res := newScenarioResult(s)
	rounds := e.opts.rounds
	if s.maxRounds > 0 {
		rounds = min(rounds, s.maxRounds)
	}
	for round := range rounds {
		for i, tg := range s.targets {
			e.progress.printf("%s %d/%d: %s\n", s.name, round+1, rounds, tg.name)
			v, err := runTrial(ctx, e, s, tg)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				e.progress.printf("%s, %s: %v\n", s.name, tg.name, err)
			}
			res.add(i, v, err)
		}
	}
	return res, nil
}
