package app

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/courier"
	"github.com/holdfast/holdfast/internal/handover"
)

// script returns a handoverer whose next program is a shell script.
func scripted(t *testing.T, script string) *handoverer {
	t.Helper()
	path := filepath.Join(t.TempDir(), "next")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return &handoverer{program: courier.Program{Path: path, Args: []string{path, "-config", "x"}}, environ: os.Environ()}
}

func TestPreflight(t *testing.T) {
	good := fmt.Sprintf(`{"oldest":%d,"newest":%d}`, handover.Oldest, handover.Format)
	for name, tt := range map[string]struct{ script, want string }{
		"fails":            {"echo why >&2; exit 3", "handover: why (exit status 3)"},
		"fails silently":   {"exit 3", "exit status 3"},
		"says nothing":     {"exit 0", "does not report which formats"},
		"is too old":       {fmt.Sprintf(`echo '{"oldest":0,"newest":%d}'`, handover.LeastReader-1), "reads formats"},
		"is too new":       {fmt.Sprintf(`echo '{"oldest":%d,"newest":99}'`, handover.Format+1), "reads formats"},
		"refuses settings": {fmt.Sprintf(`case "$1" in handover) echo '%s';; *) echo "$*" >&2; exit 2;; esac`, good), "-config x -check"},
		"floods":           {"yes", "longer than handover.timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			if strings.Contains(tt.want, "timeout") {
				ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
			}
			defer cancel()
			err := scripted(t, tt.script).preflight(ctx, config.Default().Handover)
			if err == nil || !strings.Contains(err.Error(), tt.want) && !strings.Contains(err.Error(), strings.Replace(tt.want, "handover:", "formats:", 1)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if err := scripted(t, "").preflight(t.Context(), config.Handover{Mode: config.HandoverOff}); err != errOff { //nolint:errorlint // as it is
		t.Errorf("switched off: %v", err)
	}
}

func TestVerifyGetsTheSnapshot(t *testing.T) {
	file, err := courier.NewSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString("content"); err != nil {
		t.Fatal(err)
	}
	if err := scripted(t, `[ "$*" = "handover verify" ] && [ "$(cat /proc/self/fd/3)" = content ]`).verify(t.Context(), file); err != nil {
		t.Error(err)
	}
	if err := scripted(t, "echo damaged >&2; exit 1").verify(t.Context(), file); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("got %v", err)
	}
}

func TestBackIsForUncommittedTakeoversOnly(t *testing.T) {
	for _, tk := range []*takeover{
		nil,
		{in: &courier.Inherited{Old: 1 << 19}, committed: true},
		{in: &courier.Inherited{Old: -1}},
		{stored: &courier.Stored{}},
	} {
		if err := tk.back(t.Context(), errOff); err != errOff { //nolint:errorlint // unchanged
			t.Errorf("%+v: %v", tk, err)
		}
	}
	if err := (&takeover{in: &courier.Inherited{Old: 1 << 19}}).back(t.Context(), nil); err != nil {
		t.Errorf("without an error: %v", err)
	}
}
