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
func (r *release) dist() error {
	work, err := os.MkdirTemp("", "holdfast-dist-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }() // a temporary folder
	common := filepath.Join(work, "common")
	if err := r.stageCommon(common); err != nil {
		return err
	}
	for _, p := range r.platforms {
		if err := r.distPlatform(work, common, p); err != nil {
			return fmt.Errorf("%s: %w", p.name(), err)
		}
	}
	if err := copyFile(filepath.Join(r.root, "config.schema.json"), filepath.Join(r.out, "config.schema.json")); err != nil {
		return err
	}
	if err := r.chart(work); err != nil {
		return err
	}
	return r.checksums()
}

// stageCommon collects what is the same on all platforms.
func (r *release) stageCommon(dir string) error {
	for _, name := range []string{"LICENSE", "README.md", "CHANGELOG.md", "config.example.yaml", "config.schema.json"} {
		if err := copyFile(filepath.Join(r.root, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	for shell, name := range map[string]string{"bash": "holdfast.bash", "zsh": "_holdfast", "fish": "holdfast.fish"} {
		script, err := r.output(nil, "go", "run", ".", "completion", shell)
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, "completions", name), script); err != nil {
			return err
		}
	}
	return r.writeNotices(filepath.Join(dir, "THIRD-PARTY-NOTICES.txt"))
}

func (r *release) distPlatform(work, common string, p platform) error {
	name := fmt.Sprintf("holdfast_%s_%s_%s", r.number(), p.goos, p.goarch)
	dir := filepath.Join(work, name)
	if err := os.CopyFS(dir, os.DirFS(common)); err != nil {
		return err
	}
	binary, err := r.build(p, dir)
	if err != nil {
		return err
	}
	if p.goos == "linux" {
		units := filepath.Join(r.root, "deploy", "systemd")
		for _, unit := range []string{"holdfast.service", "60-holdfast.conf"} {
			if err := copyFile(filepath.Join(units, unit), filepath.Join(dir, "systemd", unit)); err != nil {
				return err
			}
		}
	}
	if p.goos == "windows" {
		err = r.zip(filepath.Join(r.out, name+".zip"), dir, name)
	} else {
		err = r.tarGzip(filepath.Join(r.out, name+".tar.gz"), dir, name)
	}
	if err == nil {
		err = r.writeSBOM(filepath.Join(r.out, name+".cdx.json"), binary, p)
	}
	if err != nil || p.deb == "" {
		return err
	}
	return r.packages(dir, p)
}

// packages makes the deb and the rpm of what is in dir, with the paths of a package instead of
// those of /usr/local.
func (r *release) packages(dir string, p platform) error {
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
		os.CopyFS(filepath.Join(dir, "packages"), os.DirFS(filepath.Join(r.root, "deploy", "packages"))),
	); err != nil {
		return err
	}
	for packager, arch := range map[string]string{"deb": p.deb, "rpm": p.rpm} {
		env := []string{
			"NFPM_ARCH=" + arch, "NFPM_VERSION=" + r.number(), "SOURCE_DATE_EPOCH=" + strconv.FormatInt(r.date.Unix(), 10), "GOFLAGS=",
		}
		target := fmt.Sprintf("holdfast_%s_%s.%s", r.number(), arch, packager)
		if err := setTimes(dir, r.date); err != nil {
			return err
		}
		if err := r.tool(dir, env, "go", "run", nfpm, "package", "--config", "packages/nfpm.yaml", "--packager", packager,
			"--target", filepath.Join(r.out, target)); err != nil {
			return err
		}
	}
	return nil
}

// checksums writes SHA256SUMS of all results, as sha256sum -c takes it.
func (r *release) checksums() error {
	entries, err := os.ReadDir(r.out) // sorted
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(r.out, e.Name()))
		if err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		fmt.Fprintf(&b, "%s  %s\n", hex.EncodeToString(sum[:]), e.Name())
		fmt.Println(e.Name())
	}
	return writeFile(filepath.Join(r.out, "SHA256SUMS"), []byte(b.String()))
}

// writeNotices collects the licenses of all modules that any platform's binary contains, and of Go
// itself.
func (r *release) writeNotices(file string) error {
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
		texts, err := filepath.Glob(filepath.Join(modules[name], "[LN][IO][CT][EI]*")) // LICENSE, LICENCE, NOTICE
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
