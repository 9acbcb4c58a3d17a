package app

import (
	"errors"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/siotest/outputtest"
)

func completions(t *testing.T, name string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skip(err)
	}
	var b strings.Builder
	if err := subcommands["completion"](t.Context(), []string{name}, nil, &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// shell runs a shell with a script on its standard input.
func shell(t *testing.T, script string, command ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Stdin = strings.NewReader(script)
	cmd.Env = append(cmd.Environ(), "HOME="+t.TempDir())
	cmd.Dir = "testdata"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", command, err, out)
	}
	return string(out)
}

func TestBashCompletes(t *testing.T) {
	script := completions(t, "bash")
	shell(t, script, "bash", "-n")
	for _, tt := range []struct {
		typed string // words, as bash splits them; the last one is completed
		want  string
	}{
		{"holdfast pro", "probe"},
		{"holdfast ", "doctor init probe health handover completion"},
		{"holdfast -up", "-upstream"},
		{"holdfast --log-", "--log-level --log-format"},
		{"holdfast -listen : -log-level ", "debug info warn error"},
		{"holdfast -log-level = de", "debug"},
		{"holdfast --log-format =", "text json"},
		{"holdfast -config hold", "holdfast.yaml"},
		{"holdfast -listen ", ""},
		{"holdfast probe -in", "-insecure"},
		{"holdfast probe -up", ""},
		{"holdfast doctor -js", "-json"},
		{"holdfast init -fo", "-force"},
		{"holdfast health --t", "--timeout"},
		{"holdfast completion z", "zsh"},
		{"holdfast -demo pro", ""},
	} {
		words := strings.Split(tt.typed, " ")
		quoted := "'" + strings.Join(words, "' '") + "'"
		call := script + "\nCOMP_WORDS=(" + quoted + ")\nCOMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n_holdfast\necho \"${COMPREPLY[*]}\"\n"
		if got := strings.TrimSpace(shell(t, call, "bash", "--norc")); got != tt.want {
			t.Errorf("%q completes to %q; want %q", tt.typed, got, tt.want)
		}
	}
	if got := strings.TrimSpace(shell(t, script+"\ncomplete -p holdfast\n", "bash", "--norc")); got != "complete -F _holdfast holdfast" {
		t.Errorf("bash completes holdfast with %q", got)
	}
}

func TestZshTakesCompletions(t *testing.T) {
	script := completions(t, "zsh")
	shell(t, script, "zsh", "-n")
	setup := "autoload -Uz compinit && compinit -u -D\n"
	if got := shell(t, setup+script+"\nprint $_comps[holdfast]\n", "zsh", "-f"); got != "_holdfast\n" {
		t.Errorf("zsh completes holdfast with %q", got)
	}
}

func TestFishCompletes(t *testing.T) {
	script := completions(t, "fish")
	shell(t, script, "fish", "--no-execute")
	for typed, want := range map[string]string{
		"holdfast pro":             "probe",
		"holdfast -up":             "-upstream",
		"holdfast --log-f":         "--log-format",
		"holdfast -log-level w":    "warn",
		"holdfast -config holdf":   "holdfast.yaml",
		"holdfast probe -ins":      "-insecure",
		"holdfast completion fi":   "fish",
		"holdfast health --config": "--config",
	} {
		got, _, _ := strings.Cut(shell(t, script+"\ncomplete -C '"+typed+"'\n", "fish", "--no-config"), "\t")
		if strings.TrimSpace(got) != want {
			t.Errorf("%q completes to %q; want %q", typed, got, want)
		}
	}
}

// Completions come from the help texts, which have to name every flag.
func TestHelpHasEveryFlag(t *testing.T) {
	_, err := config.ParseArgs([]string{"-zzzzzzzzzzzzzzz"})
	_, list, ok := strings.Cut(err.Error(), "; allowed: ")
	if !ok {
		t.Fatal(err)
	}
	inHelp := func(text string) []string {
		var names []string
		for _, m := range regexp.MustCompile(`(?m)^  (-[a-z-]+)`).FindAllStringSubmatch(text, -1) {
			names = append(names, m[1])
		}
		slices.Sort(names)
		return names
	}
	if got, want := inHelp(helps()[0].Text), strings.Split(list, ", "); !slices.Equal(got, want) {
		t.Errorf("the help has %v; the flags are %v", got, want)
	}
	script := completions(t, "bash")
	for _, h := range helps() {
		for _, name := range inHelp(h.Text) {
			if !regexp.MustCompile(`flags='[^']*\b` + name[1:] + `\b`).MatchString(script) {
				t.Errorf("no completion of %s %s", h.Name, name)
			}
		}
	}
}

func TestSubcommandsRefuseBadUsage(t *testing.T) {
	for _, args := range [][]string{{"completion"}, {"completion", "csh"}, {"health", "-nonsense"}} {
		if err := (command{}).run(t.Context(), args, nil); !errors.Is(err, config.ErrInvalid) {
			t.Errorf("%v: %v", args, err)
		}
	}
	for name := range subcommands {
		var b strings.Builder
		if err := (command{stdout: &b}).run(t.Context(), []string{name, "-h"}, nil); err != nil || !strings.Contains(b.String(), "holdfast "+name) {
			t.Errorf("%s -h: %v\n%s", name, err, b.String())
		}
	}
}

func TestUnknownCommands(t *testing.T) {
	for args, want := range map[string]string{
		"serve":                 `found "serve"; allowed: flags, or one of doctor, init, probe, health, handover, completion first`,
		"http://localhost:3000": "did you mean holdfast -upstream http://localhost:3000, or holdfast doctor http://localhost:3000?",
		"help me":               `found "help"`,
	} {
		err := (command{}).run(t.Context(), strings.Fields(args), nil)
		if !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %s", args, err, want)
		}
	}
	var b strings.Builder
	if err := (command{stdout: &b}).run(t.Context(), []string{"help"}, nil); err != nil || !strings.Contains(b.String(), "Usage:") {
		t.Errorf("help: %v\n%s", err, b.String())
	}
}

func TestStopWithStdin(t *testing.T) {
	r, w := io.Pipe()
	log := &outputtest.Buffer{}
	done := make(chan error, 1)
	go func() { // ends with the pipe
		args := []string{"-stop-with-stdin", "-listen", "127.0.0.1:0", "-admin", ""}
		done <- command{version: "dev", stdin: r, stdout: io.Discard, stderr: log}.run(t.Context(), args, nil)
	}()
	for !strings.Contains(log.String(), "holdfast is ready") {
		select {
		case err := <-done:
			t.Fatalf("it ended: %v\n%s", err, log)
		case <-time.After(time.Millisecond):
		}
	}
	_ = w.Close() // a pipe's never fails
	if err := <-done; err != nil {
		t.Error(err)
	}
}
