package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// buildNPM packs the package holdfast, and one with the binary of each platform, into out.
func buildNPM(r *release) error {
	stage, err := os.MkdirTemp("", "holdfast-npm-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(stage) }() // a temporary folder
	for _, p := range r.platforms {
		if err := packPlatform(r, filepath.Join(stage, p.name()), p); err != nil {
			return fmt.Errorf("%s: %w", p.npmPackage(), err)
		}
	}
	if err := packMain(r, filepath.Join(stage, "holdfast")); err != nil {
		return fmt.Errorf("npm/: %w", err)
	}
	return nil
}

func packPlatform(r *release, dir string, p platform) error {
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		return err
	}
	if _, err := r.build(p, filepath.Join(dir, "bin")); err != nil {
		return err
	}
	manifest := map[string]any{
		"name":            p.npmPackage(),
		"version":         r.number(),
		"description":     fmt.Sprintf("The holdfast binary for %s on %s", p.nodeOS, p.nodeArch),
		"license":         "MIT",
		"repository":      map[string]string{"type": "git", "url": "git+https://github.com/holdfast/holdfast.git", "directory": "npm"},
		"os":              []string{p.nodeOS},
		"cpu":             []string{p.nodeArch},
		"preferUnplugged": true, // it has to be a file that can be run
		"files":           []string{"bin"},
	}
	readme := fmt.Sprintf("# %s\n\nThe binary of [holdfast](https://github.com/holdfast/holdfast) for %s on %s. Install the package `holdfast`, which needs this one.\n",
		p.npmPackage(), p.nodeOS, p.nodeArch)
	if err := errors.Join(
		writeJSON(filepath.Join(dir, "package.json"), manifest),
		os.WriteFile(filepath.Join(dir, "README.md"), []byte(readme), 0o644),
		copyFile(filepath.Join(r.root, "LICENSE"), filepath.Join(dir, "LICENSE")),
	); err != nil {
		return err
	}
	file, err := pack(r, dir, p.npmPackage())
	if err != nil {
		return err
	}
	return checkPlatform(file, p)
}

// packMain adds the version, and all platforms as optional dependencies: whichever of them this run
// builds.
func packMain(r *release, dir string) error {
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(r.root, "npm"))); err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(dir, "package.json"))
	if err != nil {
		return err
	}
	var manifest map[string]any
	if err := json.Unmarshal(data, &manifest); err != nil {
		return err
	}
	optional := map[string]string{}
	for _, p := range platforms {
		optional[p.npmPackage()] = r.number()
	}
	manifest["version"] = r.number()
	manifest["optionalDependencies"] = optional
	if err := errors.Join(
		writeJSON(filepath.Join(dir, "package.json"), manifest),
		copyFile(filepath.Join(r.root, "LICENSE"), filepath.Join(dir, "LICENSE")),
		os.Chmod(filepath.Join(dir, "bin", "holdfast.js"), 0o755),
	); err != nil {
		return err
	}
	_, err = pack(r, dir, "holdfast")
	return err
}

// pack runs npm pack, and returns the tarball.
func pack(r *release, dir, name string) (string, error) {
	if err := runTool(dir, nil, "npm", "pack", "--silent", "--pack-destination", r.out); err != nil {
		return "", err
	}
	file := strings.NewReplacer("@", "", "/", "-").Replace(name) + "-" + r.number() + ".tgz"
	fmt.Println(file)
	return filepath.Join(r.out, file), nil
}

// checkPlatform checks the packed files, the binary's mode and machine, and the system that the
// package names.
func checkPlatform(file string, p platform) error {
	binary := "package/bin/" + p.binary()
	var names []string
	var manifest struct {
		OS, CPU []string
		Scripts map[string]string
	}
	err := eachEntry(file, func(h *tar.Header, content io.Reader) error {
		names = append(names, h.Name)
		switch h.Name {
		case "package/package.json":
			return json.NewDecoder(content).Decode(&manifest)
		case binary:
			if h.Mode&0o111 == 0 {
				return fmt.Errorf("%s has mode %o", h.Name, h.Mode)
			}
			unpacked, err := os.CreateTemp("", "holdfast-check-")
			if err != nil {
				return err
			}
			defer func() { _ = os.Remove(unpacked.Name()) }() // a temporary file
			_, err = io.Copy(unpacked, content)
			return errors.Join(err, unpacked.Close(), checkMachine(unpacked.Name(), p))
		}
		return nil
	})
	slices.Sort(names)
	want := []string{"package/LICENSE", "package/README.md", binary, "package/package.json"}
	switch {
	case err != nil:
		return err
	case !slices.Equal(names, want):
		return fmt.Errorf("%s has %v; want %v", file, names, want)
	case !slices.Equal(manifest.OS, []string{p.nodeOS}) || !slices.Equal(manifest.CPU, []string{p.nodeArch}) || len(manifest.Scripts) > 0:
		return fmt.Errorf("%s says %+v", file, manifest)
	}
	return nil
}

// eachEntry calls f with each file of a .tar.gz.
func eachEntry(file string, f func(h *tar.Header, content io.Reader) error) error {
	packed, err := os.Open(file)
	if err != nil {
		return err
	}
	defer packed.Close()
	plain, err := gzip.NewReader(packed)
	if err != nil {
		return err
	}
	archive := tar.NewReader(plain)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := f(h, archive); err != nil {
			return err
		}
	}
}

func writeJSON(file string, value any) error {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return err
	}
	return os.WriteFile(file, b.Bytes(), 0o644)
}

// copyFile copies a file that is not run.
func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return writeFile(to, data)
}
