package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
)

// makeTargets are the Makefile's phony targets.
func makeTargets(t *testing.T) []string {
	t.Helper()
	var targets []string
	for _, m := range regexp.MustCompile(`(?m)^\.PHONY: (.+)$`).FindAllStringSubmatch(read(t, "../Makefile"), -1) {
		targets = append(targets, strings.Fields(m[1])...)
	}
	if len(targets) == 0 {
		t.Fatal("the Makefile has no phony target")
	}
	return targets
}

// calledTargets are the targets of the make commands in a script. Variables and options are not
// targets.
func calledTargets(script string) []string {
	var targets []string
	for line := range strings.SplitSeq(script, "\n") {
		line, _, _ = strings.Cut(line, " #")
		_, args, ok := strings.Cut(" "+line, " make ")
		if !ok {
			continue
		}
		for arg := range strings.FieldsSeq(args) {
			if strings.HasPrefix(arg, "<") {
				break
			}
			if !strings.ContainsAny(arg, "=-") {
				targets = append(targets, arg)
			}
		}
	}
	return targets
}

func TestWorkflowsCallTargetsThatExist(t *testing.T) {
	files, err := filepath.Glob("../.github/workflows/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("workflows %v, %v", files, err)
	}
	targets := makeTargets(t)
	for _, file := range files {
		workflow := decode[struct {
			Name string
			On   any
			Jobs map[string]struct {
				RunsOn string `yaml:"runs-on"`
				Needs  string
				Steps  []struct{ Uses, Run string }
			}
		}](t, file)
		if workflow.Name == "" || workflow.On == nil || len(workflow.Jobs) == 0 {
			t.Errorf("%s: a name, a trigger or the jobs are missing", file)
		}
		called := 0
		for name, job := range workflow.Jobs {
			if job.RunsOn == "" || len(job.Steps) == 0 {
				t.Errorf("%s: job %s has no runner or no steps", file, name)
			}
			if _, ok := workflow.Jobs[job.Needs]; job.Needs != "" && !ok {
				t.Errorf("%s: job %s needs %s, which does not exist", file, name, job.Needs)
			}
			for _, step := range job.Steps {
				if (step.Uses == "") == (step.Run == "") {
					t.Errorf("%s: a step of job %s has both or neither of uses and run", file, name)
				}
				for _, target := range calledTargets(step.Run) {
					called++
					if !slices.Contains(targets, target) {
						t.Errorf("%s: job %s calls make %s, which does not exist", file, name, target)
					}
				}
			}
		}
		if called == 0 {
			t.Errorf("%s calls no make target", file)
		}
	}
	for _, target := range calledTargets(read(t, "../.ci/run")) {
		if !slices.Contains(targets, target) {
			t.Errorf(".ci/run calls make %s, which does not exist", target)
		}
	}
}

func TestProjectFilesParse(t *testing.T) {
	files, err := filepath.Glob("../.github/ISSUE_TEMPLATE/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("issue forms %v, %v", files, err)
	}
	for _, file := range append(files, "../.github/dependabot.yml", "../.golangci.yml") {
		var v map[string]any
		if err := yaml.Unmarshal([]byte(read(t, file)), &v); err != nil || len(v) == 0 {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// released is the newest version in the changelog.
func released(t *testing.T) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^## (\d+\.\d+\.\d+) - (\S+)$`).FindStringSubmatch(read(t, "../CHANGELOG.md"))
	if m == nil {
		t.Fatal("the changelog has no version with a date")
	}
	if _, err := time.Parse(time.DateOnly, m[2]); err != nil {
		t.Errorf("%s: %v", m[1], err)
	}
	return m[1]
}

func TestVersionIsThatOfTheChangelog(t *testing.T) {
	if !regexp.MustCompile(`(?s)\n## Unreleased\n.*\n## \d`).MatchString(read(t, "../CHANGELOG.md")) {
		t.Error("the changelog has no place for what is not released yet")
	}
	chart := decode[struct {
		Version    string
		AppVersion string `yaml:"appVersion"`
	}](t, "helm/holdfast/Chart.yaml")
	component := decode[struct {
		Images []struct {
			NewTag string `yaml:"newTag"`
		}
	}](t, "kustomize/sidecar/kustomization.yaml")
	want := released(t)
	for what, got := range map[string]string{
		"npm/package.json":         decode[struct{ Version string }](t, "../npm/package.json").Version,
		"version of the chart":     chart.Version,
		"appVersion of the chart":  chart.AppVersion,
		"image of the component":   component.Images[0].NewTag,
		"comment of the component": regexp.MustCompile(`\?ref=v(\S+)`).FindStringSubmatch(read(t, "kustomize/sidecar/kustomization.yaml"))[1],
	} {
		if got != want {
			t.Errorf("%s: %s; the newest version in the changelog is %s", what, got, want)
		}
	}
}

func TestDependabotFindsItsManifests(t *testing.T) {
	manifests := map[string]string{
		"gomod": "go.mod", "npm": "package.json", "docker": "Dockerfile", "github-actions": ".github/workflows",
	}
	for _, update := range decode[struct {
		Updates []struct {
			Ecosystem   string `yaml:"package-ecosystem"`
			Directory   string
			Directories []string
		}
	}](t, "../.github/dependabot.yml").Updates {
		manifest := manifests[update.Ecosystem]
		if manifest == "" {
			t.Errorf("unknown ecosystem %q", update.Ecosystem)
			continue
		}
		for _, dir := range append(update.Directories, update.Directory) {
			if dir == "" {
				continue
			}
			if _, err := os.Stat(filepath.Join("..", dir, manifest)); err != nil {
				t.Error(err)
			}
		}
		delete(manifests, update.Ecosystem)
	}
	if len(manifests) > 0 {
		t.Errorf("not watched: %v", manifests)
	}
}

func TestBugReportAsksForWhatIsNeeded(t *testing.T) {
	form := decode[struct {
		Body []struct {
			ID          string
			Validations struct{ Required bool }
		}
	}](t, "../.github/ISSUE_TEMPLATE/bug.yml")
	missing := []string{"probe", "version", "config", "log"}
	for _, field := range form.Body {
		if field.Validations.Required {
			missing = slices.DeleteFunc(missing, func(id string) bool { return id == field.ID })
		}
	}
	if len(missing) > 0 {
		t.Errorf("not asked for: %v", missing)
	}
}

func TestMakeHelpListsEveryTarget(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "make", "-C", "..", "--no-print-directory", "help").Output()
	if err != nil {
		t.Fatal(err)
	}
	var listed, group []string
	for _, line := range append(strings.Split(string(out), "\n"), "") {
		if name, ok := strings.CutPrefix(line, "  "); ok {
			group = append(group, strings.Fields(name)[0])
			continue
		}
		if !slices.IsSorted(group) {
			t.Errorf("a group is not sorted: %v", group)
		}
		listed, group = append(listed, group...), nil
	}
	want := makeTargets(t)
	slices.Sort(want)
	slices.Sort(listed)
	if !slices.Equal(listed, want) {
		t.Errorf("make help lists %v; the Makefile has %v", listed, want)
	}
}
