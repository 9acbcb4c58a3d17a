package charts

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

// The programs, which `make charts` builds.
var (
	root      = filepath.Join("..", "..")
	helm      = program("helm")
	kustomize = program("kustomize")
	holdfast  string // built from this tree
)

func program(name string) string {
	path, err := filepath.Abs(filepath.Join(root, "bin", name))
	if err != nil {
		panic(err)
	}
	return path
}

func TestMain(m *testing.M) {
	code, err := build(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// build builds holdfast, and calls run.
func build(run func() int) (int, error) {
	for _, path := range []string{helm, kustomize} {
		if _, err := os.Stat(path); err != nil {
			return 0, fmt.Errorf("%w: run make charts, which builds it", err)
		}
	}
	dir, err := os.MkdirTemp("", "holdfast-charts-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary folder
	holdfast = filepath.Join(dir, "holdfast")
	cmd := exec.Command("go", "build", "-o", holdfast, ".")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return run(), nil
}

// output runs a program that must succeed, and returns its standard output.
func output(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	out, err := tryOutput(t.Context(), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryOutput(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "HOLDFAST_") || strings.HasPrefix(v, "KUBE") })
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, stderr.String())
	}
	return out, nil
}

// objects is what a program rendered, by kind.
type objects struct {
	deployments  []*apps.Deployment
	services     []*core.Service
	configMaps   []*core.ConfigMap
	secrets      []*core.Secret
	accounts     []*core.ServiceAccount
	pods         []*core.Pod
	policies     []*networking.NetworkPolicy
	ingresses    []*networking.Ingress
	budgets      []*policy.PodDisruptionBudget
	autoscalers  []*autoscaling.HorizontalPodAutoscaler
	podMonitors  []*monitoring.PodMonitor
	kindsAndName []string
}

// decode reads rendered YAML. A field that the API does not know, or one that occurs twice, is an
// error, and so is a kind that is not expected.
func decode(t *testing.T, text []byte) objects {
	t.Helper()
	var o objects
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return o
		} else if err != nil {
			t.Fatal(err)
		}
		var head struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
			Metadata   struct {
				Name string `json:"name"`
			} `json:"metadata"`
		}
		if err := strict.Unmarshal(document, &head); err != nil {
			t.Fatalf("%v\n%s", err, document)
		}
		if head.Kind == "" { // comments only
			continue
		}
		name := head.Kind + "/" + head.Metadata.Name
		if slices.Contains(o.kindsAndName, name) {
			t.Errorf("%s occurs twice", name)
		}
		if !regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`).MatchString(head.Metadata.Name) {
			t.Errorf("%s: the name is not valid", name)
		}
		o.kindsAndName = append(o.kindsAndName, name)
		if err := o.add(head.APIVersion+" "+head.Kind, document); err != nil {
			t.Errorf("%s: %v\n%s", name, err, document)
		}
	}
}

func (o *objects) add(kind string, document []byte) error {
	switch kind {
	case "apps/v1 Deployment":
		return into(&o.deployments, document)
	case "v1 Service":
		return into(&o.services, document)
	case "v1 ConfigMap":
		return into(&o.configMaps, document)
	case "v1 Secret":
		return into(&o.secrets, document)
	case "v1 ServiceAccount":
		return into(&o.accounts, document)
	case "v1 Pod":
		return into(&o.pods, document)
	case "networking.k8s.io/v1 NetworkPolicy":
		return into(&o.policies, document)
	case "networking.k8s.io/v1 Ingress":
		return into(&o.ingresses, document)
	case "policy/v1 PodDisruptionBudget":
		return into(&o.budgets, document)
	case "autoscaling/v2 HorizontalPodAutoscaler":
		return into(&o.autoscalers, document)
	case "monitoring.coreos.com/v1 PodMonitor":
		return into(&o.podMonitors, document)
	}
	return fmt.Errorf("an object of type %s is not expected", kind)
}

func into[T any](list *[]*T, document []byte) error {
	v := new(T)
	*list = append(*list, v)
	return strict.UnmarshalStrict(document, v)
}

// checkConfig runs `holdfast -check` on the text of a configuration file and variables. Files that
// it names are in the cluster, so replace puts others in their place.
func checkConfig(t *testing.T, text string, environ ...string) string {
	t.Helper()
	args := []string{"-check"}
	if text != "" {
		file := filepath.Join(t.TempDir(), "holdfast.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-config", file)
	}
	cmd := exec.CommandContext(t.Context(), holdfast, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, environ...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("holdfast -check: %v\n%s\n%s\n%s", err, out, text, strings.Join(environ, "\n"))
	}
	return string(out)
}
