package charts

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// BuildKit's own parser reads the Dockerfile, and its linter finds nothing deprecated or wrong.
func TestDockerfileParses(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	result, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range result.Warnings {
		t.Errorf("%s %v", w.Short, w.Location)
	}
	lint := linter.New(&linter.Config{Warn: func(rule, _, _, message string, location []parser.Range) {
		t.Errorf("%s: %s %v", rule, message, location)
	}})
	stages, _, err := instructions.Parse(result.AST, lint)
	if err != nil {
		t.Fatal(err)
	}
	if len(stages) != 2 || stages[1].BaseName != "scratch" {
		t.Fatalf("%d stages; want one that builds, and an image from scratch", len(stages))
	}
	var labels []string
	for _, c := range stages[1].Commands {
		if l, ok := c.(*instructions.LabelCommand); ok {
			for _, kv := range l.Labels {
				labels = append(labels, strings.Trim(kv.Key, `"`))
			}
		}
	}
	for _, want := range []string{"title", "description", "source", "documentation", "licenses", "version", "revision", "created"} {
		if !strings.Contains(strings.Join(labels, " ")+" ", "org.opencontainers.image."+want+" ") {
			t.Errorf("no label %s among %v", want, labels)
		}
	}
}

// Compose's own loader accepts the files, alone and together, and what they mount exists.
func TestComposeFilesLoad(t *testing.T) {
	dir := filepath.Join(root, "deploy", "compose")
	for _, names := range [][]string{{"compose.yaml"}, {"compose.yaml", "compose.build.yaml"}, {"compose.yaml", "servers.yaml"}} {
		var files []string
		for _, name := range names {
			files = append(files, filepath.Join(dir, name))
		}
		options, err := cli.NewProjectOptions(files, cli.WithProfiles([]string{"*"}), cli.WithResolvedPaths(true))
		if err != nil {
			t.Fatal(err)
		}
		project, err := options.LoadProject(t.Context())
		if err != nil {
			t.Fatalf("%v: %v", names, err)
		}
		holdfast := project.Services["holdfast"]
		if built := holdfast.Build != nil; built != slices.Contains(names, "compose.build.yaml") {
			t.Errorf("%v: the build is %+v", names, holdfast.Build)
		}
		if _, ok := project.Services[slices.Sorted(maps.Keys(holdfast.DependsOn))[0]]; !ok {
			t.Errorf("holdfast depends on %v", holdfast.DependsOn)
		}
		for name, s := range project.Services {
			for _, v := range s.Volumes {
				if _, err := os.Stat(v.Source); v.Type == "bind" && err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			for _, c := range s.Configs {
				if project.Configs[c.Source].Content == "" {
					t.Errorf("%s: the config %s has no content", name, c.Source)
				}
			}
		}
	}
}
