package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// packChart packs the Helm chart as `helm package` does, with the version of this release for the chart
// and for the image.
func packChart(r *release, work string) error {
	dir := filepath.Join(work, "chart")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(r.root, "deploy", "helm", "holdfast"))); err != nil {
		return err
	}
	manifest := filepath.Join(dir, "Chart.yaml")
	text, err := os.ReadFile(manifest)
	if err != nil {
		return err
	}
	versions := regexp.MustCompile(`(?m)^(version|appVersion): .*$`)
	if found := len(versions.FindAll(text, -1)); found != 2 {
		return fmt.Errorf("%s has %d versions; want version and appVersion", manifest, found)
	}
	text = versions.ReplaceAll(text, []byte(`${1}: "`+r.number()+`"`))
	// .helmignore leaves out what is for tests only.
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "ci")), writeFile(manifest, text)); err != nil {
		return err
	}
	return tarGzip(filepath.Join(r.out, "holdfast-chart-"+r.number()+".tgz"), dir, "holdfast", r.date)
}
