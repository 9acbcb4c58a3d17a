package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// release is what one run builds.
type release struct {
	version   string // as git describes it, such as v1.2.3
	commit    string
	date      time.Time // the commit's
	root      string    // the project's folder
	out       string    // where results go; emptied first
	platforms []platform
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var r release
	var names, date string
	flags := flag.NewFlagSet("release", flag.ExitOnError)
	flags.StringVar(&r.version, "version", "dev", "the version, as git describes it")
	flags.StringVar(&r.commit, "commit", "", "the commit")
	flags.StringVar(&date, "date", "", "the commit's date, RFC 3339 in UTC")
	flags.StringVar(&r.out, "out", "", "the folder for the results; it is emptied")
	flags.StringVar(&names, "platforms", "all", "all, host, none, or names such as linux-amd64, comma-separated")
	if len(args) == 0 {
		return errors.New("wanted: release dist|npm [flags]")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	var err error
	if r.date, err = time.Parse(time.RFC3339, date); err != nil {
		return fmt.Errorf("-date: %w", err)
	}
	if r.platforms, err = choose(names); err != nil {
		return err
	}
	if r.root, err = filepath.Abs("."); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(r.root, "go.mod")); err != nil {
		return errors.New("run it in the project's folder")
	}
	if r.out == "" {
		return errors.New("-out is missing")
	}
	if r.out, err = filepath.Abs(r.out); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(r.out), os.MkdirAll(r.out, 0o755)); err != nil {
		return err
	}
	switch args[0] {
	case "npm":
		return buildNPM(&r)
	case "dist":
		return buildDist(&r)
	default:
		return fmt.Errorf("found %q; allowed: dist, npm", args[0])
	}
}

var semver = regexp.MustCompile(`^v?((?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)(?:-[0-9A-Za-z.-]+)?)$`)

// number is the version without v, for package managers. What is no release comes before all
// releases.
func (r *release) number() string {
	if m := semver.FindStringSubmatch(r.version); m != nil {
		return m[1]
	}
	return "0.0.0-dev.g" + strings.Map(func(c rune) rune {
		if c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			return c
		}
		return '-'
	}, r.version)
}

// build compiles the binary of a platform, and returns its path. Go's cache makes a second time
// cheap.
func (r *release) build(p platform, dir string) (string, error) {
	const set = " -X github.com/holdfast/holdfast/internal/buildinfo."
	out := filepath.Join(dir, p.binary())
	ldflags := "-s -w" + set + "version=" + r.version + set + "commit=" + r.commit + set + "date=" + r.date.Format(time.RFC3339)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", ldflags, "-o", out, ".")
	cmd.Dir = r.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.goos, "GOARCH="+p.goarch, "GOARM="+p.goarm, "GOFLAGS=")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: go build: %w", p.name(), err)
	}
	return out, checkMachine(out, p)
}

// runTool runs a program in a folder. Its errors are shown.
func runTool(dir string, env []string, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}

// output runs a program in the project's folder, and returns what the program writes.
func (r *release) output(env []string, name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = r.root
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return out, nil
}
