package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// nfpm makes deb and rpm packages.
const nfpm = "github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2"

// dist builds archives, packages, SBOMs, the Helm chart and their checksums into out.
type dist struct {
	*release
	work   string // a temporary folder
	common string // in it, what is the same on all platforms
}

func buildDist(r *release) error {
	work, err := os.MkdirTemp("", "holdfast-dist-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }() // a temporary folder
	d := &dist{r, work, filepath.Join(work, "common")}
	return d.run()
}

func (d *dist) run() error {
	if err := d.stageCommon(); err != nil {
		return err
	}
	for _, p := range d.platforms {
		if err := d.buildPlatform(p); err != nil {
			return fmt.Errorf("%s: %w", p.name(), err)
		}
	}
	if err := copyFile(filepath.Join(d.root, "config.schema.json"), filepath.Join(d.out, "config.schema.json")); err != nil {
		return err
	}
	if err := packChart(d.release, d.work); err != nil {
		return err
	}
	return writeChecksums(d.out)
}

// stageCommon collects what is the same on all platforms.
func (d *dist) stageCommon() error {
	for _, name := range []string{"LICENSE", "README.md", "CHANGELOG.md", "config.example.yaml", "config.schema.json"} {
		if err := copyFile(filepath.Join(d.root, name), filepath.Join(d.common, name)); err != nil {
			return err
		}
	}
	for shell, name := range map[string]string{"bash": "holdfast.bash", "zsh": "_holdfast", "fish": "holdfast.fish"} {
		script, err := d.output(nil, "go", "run", ".", "completion", shell)
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(d.common, "completions", name), script); err != nil {
			return err
		}
	}
	return writeNotices(d.release, filepath.Join(d.common, "THIRD-PARTY-NOTICES.txt"))
}

func (d *dist) buildPlatform(p platform) error {
	name := fmt.Sprintf("holdfast_%s_%s_%s", d.number(), p.goos, p.goarch)
	dir := filepath.Join(d.work, name)
	if err := os.CopyFS(dir, os.DirFS(d.common)); err != nil {
		return err
	}
	binary, err := d.build(p, dir)
	if err != nil {
		return err
	}
	if p.goos == "linux" {
		units := filepath.Join(d.root, "deploy", "systemd")
		for _, unit := range []string{"holdfast.service", "60-holdfast.conf"} {
			if err := copyFile(filepath.Join(units, unit), filepath.Join(dir, "systemd", unit)); err != nil {
				return err
			}
		}
	}
	if p.goos == "windows" {
		err = zipFolder(filepath.Join(d.out, name+".zip"), dir, name, d.date)
	} else {
		err = tarGzip(filepath.Join(d.out, name+".tar.gz"), dir, name, d.date)
	}
	if err == nil {
		err = writeSBOM(d.release, filepath.Join(d.out, name+".cdx.json"), binary, p)
	}
	if err != nil || p.deb == "" {
		return err
	}
	return d.packages(dir, p)
}

// packages makes the deb and the rpm of what is in dir, with the paths of a package instead of
// those of /usr/local.
func (d *dist) packages(dir string, p platform) error {
	unit, err := os.ReadFile(filepath.Join(dir, "systemd", "holdfast.service"))
	if err != nil {
		return err
	}
	_, sections, ok := strings.Cut(string(unit), "\n[Unit]\n") // before it: how to install by hand
	if !ok {
		return errors.New("holdfast.service does not begin with a comment and [Unit]")
	}
	unit = []byte("[Unit]\n" + strings.ReplaceAll(sections, "/usr/local/bin/", "/usr/bin/"))
	example, err := os.ReadFile(filepath.Join(dir, "config.example.yaml"))
	if err != nil {
		return err
	}
	example = []byte(strings.Replace(string(example), "$schema=./", "$schema=/usr/share/holdfast/", 1))
	if err := errors.Join(
		writeFile(filepath.Join(dir, "systemd", "holdfast.service"), unit),
		writeFile(filepath.Join(dir, "holdfast.yaml"), example),
		os.CopyFS(filepath.Join(dir, "packages"), os.DirFS(filepath.Join(d.root, "deploy", "packages"))),
	); err != nil {
		return err
	}
	for packager, arch := range map[string]string{"deb": p.deb, "rpm": p.rpm} {
		env := []string{
			"NFPM_ARCH=" + arch, "NFPM_VERSION=" + d.number(), "SOURCE_DATE_EPOCH=" + strconv.FormatInt(d.date.Unix(), 10), "GOFLAGS=",
		}
		target := fmt.Sprintf("holdfast_%s_%s.%s", d.number(), arch, packager)
		if err := setTimes(dir, d.date); err != nil {
			return err
		}
		if err := runTool(dir, env, "go", "run", nfpm, "package", "--config", "packages/nfpm.yaml", "--packager", packager,
			"--target", filepath.Join(d.out, target)); err != nil {
			return err
		}
	}
	return nil
}

// writeChecksums writes SHA256SUMS of all files in a folder, in the format of sha256sum -c.
func writeChecksums(dir string) error {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		fmt.Fprintf(&b, "%s  %s\n", hex.EncodeToString(sum[:]), e.Name())
		fmt.Println(e.Name())
	}
	return writeFile(filepath.Join(dir, "SHA256SUMS"), []byte(b.String()))
}

// writeNotices collects the licenses of all modules that any platform's binary contains, and of Go
// itself.
func writeNotices(r *release, file string) error {
	modules := map[string]string{} // path and version to folder
	for _, p := range platforms {
		list, err := r.output([]string{"GOOS=" + p.goos, "GOARCH=" + p.goarch, "CGO_ENABLED=0"},
			"go", "list", "-deps", "-f", `{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}{{"\t"}}{{.Dir}}{{end}}{{end}}`, ".")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(list)) {
			if name, dir, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
				modules[name] = dir
			}
		}
	}
	goroot, err := r.output(nil, "go", "env", "GOROOT")
	if err != nil {
		return err
	}
	modules["Go's runtime and standard library"] = strings.TrimSpace(string(goroot))
	var b strings.Builder
	b.WriteString("The binary of holdfast contains the following, under these licenses.\n")
	names := make([]string, 0, len(modules))
	for name := range modules {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		// LICENSE, LICENCE, NOTICE.
		texts, err := filepath.Glob(filepath.Join(modules[name], "[LN][IO][CT][EI]*"))
		if err != nil {
			return err
		}
		if len(texts) == 0 {
			return fmt.Errorf("%s has no license in %s", name, modules[name])
		}
		fmt.Fprintf(&b, "\n%s\n%s\n", strings.Repeat("=", 80), name)
		for _, text := range texts {
			data, err := os.ReadFile(text)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "\n%s\n", strings.TrimSpace(string(data)))
		}
	}
	return writeFile(file, []byte(b.String()))
}

func writeFile(file string, data []byte) error {
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, data, 0o644)); err != nil {
		return err
	}
	return os.Chmod(file, 0o644)
}
