package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// instructions are those of the Dockerfile, continuation lines joined.
func instructions(t *testing.T) []string {
	t.Helper()
	var list []string
	for line := range strings.SplitSeq(strings.ReplaceAll(read(t, "../Dockerfile"), "\\\n", ""), "\n") {
		if line != "" && !strings.HasPrefix(line, "#") {
			list = append(list, line)
		}
	}
	return list
}

// buildContext copies what .dockerignore leaves of the project.
func buildContext(t *testing.T) string {
	t.Helper()
	var ignored []string
	for line := range strings.Lines(read(t, "../.dockerignore")) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			ignored = append(ignored, line)
		}
	}
	dir := t.TempDir()
	root := os.DirFS("..")
	err := os.CopyFS(dir, ignoring{root, func(name string) bool {
		return slices.ContainsFunc(ignored, func(pattern string) bool {
			if rest, ok := strings.CutPrefix(pattern, "**/"); ok {
				pattern, name = rest, filepath.Base(name)
			}
			match, err := filepath.Match(pattern, name)
			if err != nil {
				t.Fatal(err)
			}
			return match
		})
	}})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// The image's build step builds what the context contains, with version, commit and date, for the
// target platform.
func TestDockerfileBuilds(t *testing.T) {
	if runtime.GOOS == "windows" || testing.Short() {
		t.Skip("runs a step of the Dockerfile by sh")
	}
	all := instructions(t)
	i := slices.IndexFunc(all, func(s string) bool { return strings.Contains(s, "go build") })
	if i < 0 {
		t.Fatal("the Dockerfile does not run go build")
	}
	out := filepath.Join(t.TempDir(), "holdfast")
	step := strings.Replace(strings.TrimPrefix(all[i], "RUN "), "/out/holdfast", out, 1)
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", step)
	cmd.Dir = buildContext(t)
	cmd.Env = append(os.Environ(), "VERSION=v1.2.3", "COMMIT=0123abcd", "DATE=2026-01-02T03:04:05Z",
		"TARGETOS="+runtime.GOOS, "TARGETARCH="+runtime.GOARCH, "TARGETVARIANT=")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", step, err, text)
	}
	text, err := exec.CommandContext(t.Context(), out, "-version").Output()
	if want := "holdfast v1.2.3 (commit 0123abcd, 2026-01-02T03:04:05Z, go"; err != nil || !strings.HasPrefix(string(text), want) {
		t.Errorf("%q, %v; want %s...", text, err, want)
	}
}

func TestDockerfile(t *testing.T) {
	all := strings.Join(instructions(t), "\n")
	for _, want := range []string{
		`(?m)^FROM --platform=\$BUILDPLATFORM golang:`,
		`GOOS=\$TARGETOS GOARCH=\$TARGETARCH`,
		`(?m)^FROM scratch$`,
		`org.opencontainers.image.source=`,
		`org.opencontainers.image.licenses="MIT"`,
		`org.opencontainers.image.version="\$VERSION"`,
		`org.opencontainers.image.revision="\$COMMIT"`,
		`(?m)^HEALTHCHECK .* CMD \["/holdfast", "health"\]$`,
		`(?m)^ENTRYPOINT \["/holdfast"\]$`,
	} {
		if !regexp.MustCompile(want).MatchString(all) {
			t.Errorf("the Dockerfile has no %s", want)
		}
	}
	// Each stage declares the arguments that it uses.
	for stage := range strings.SplitSeq(all, "FROM ") {
		for _, name := range []string{"VERSION", "COMMIT", "DATE"} {
			if regexp.MustCompile(`\$`+name+`\b`).MatchString(stage) && !strings.Contains(stage, "ARG "+name) {
				t.Errorf("a stage uses %s and does not declare it", name)
			}
		}
	}
}

// The first command pulls the published image, and the second file builds one instead.
func TestComposeImageOrBuild(t *testing.T) {
	type service struct {
		Image string
		Build struct{ Context string }
	}
	type file struct{ Services map[string]service }
	pulled := decode[file](t, "compose/compose.yaml").Services["holdfast"]
	built := decode[file](t, "compose/compose.build.yaml").Services["holdfast"]
	if !strings.HasPrefix(pulled.Image, "ghcr.io/holdfast/holdfast:") || pulled.Build.Context != "" {
		t.Errorf("compose.yaml has %+v; want the published image", pulled)
	}
	if built.Image == pulled.Image {
		t.Error("what is built has the name of the published image")
	}
	if _, err := os.Stat(filepath.Join("compose", built.Build.Context, "Dockerfile")); err != nil {
		t.Error(err)
	}
}
