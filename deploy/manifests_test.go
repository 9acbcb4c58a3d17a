package deploy_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/holdfast/holdfast/internal/config"
)

// load reads a configuration as `holdfast -check` does.
func load(t *testing.T, environ []string, args ...string) config.Config {
	t.Helper()
	line, err := config.ParseArgs(args)
	if err != nil {
		t.Fatal(err)
	}
	cfg, _, err := config.Load(line, environ)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

type container struct {
	Name          string
	RestartPolicy string `yaml:"restartPolicy"`
	Ports         []struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	Env []struct {
		Name, Value string
		ValueFrom   struct {
			ResourceFieldRef struct {
				ContainerName string `yaml:"containerName"`
				Resource      string
			} `yaml:"resourceFieldRef"`
		} `yaml:"valueFrom"`
	}
	Resources struct{ Requests, Limits map[string]string }
	Startup   probe `yaml:"startupProbe"`
	Readiness probe `yaml:"readinessProbe"`
	Liveness  probe `yaml:"livenessProbe"`
	Lifecycle struct {
		PreStop struct{ Sleep struct{ Seconds int } } `yaml:"preStop"`
	}
	Security struct {
		RunAsUser                int  `yaml:"runAsUser"`
		AllowPrivilegeEscalation bool `yaml:"allowPrivilegeEscalation"`
		ReadOnlyRootFilesystem   bool `yaml:"readOnlyRootFilesystem"`
		Capabilities             struct{ Drop []string }
	} `yaml:"securityContext"`
}

type deployment struct {
	Spec struct {
		Selector struct {
			MatchLabels map[string]string `yaml:"matchLabels"`
		}
		Template struct {
			Metadata struct{ Labels map[string]string }
			Spec     struct {
				Grace          int         `yaml:"terminationGracePeriodSeconds"`
				InitContainers []container `yaml:"initContainers"`
				Containers     []container
				Security       struct {
					RunAsNonRoot bool `yaml:"runAsNonRoot"`
				} `yaml:"securityContext"`
			}
		}
	}
}

// kubernetesConfig is what holdfast makes of the ConfigMap.
func kubernetesConfig(t *testing.T) config.Config {
	t.Helper()
	data := decode[struct{ Data map[string]string }](t, "kubernetes/configmap.yaml").Data
	file := filepath.Join(t.TempDir(), "holdfast.yaml")
	if err := os.WriteFile(file, []byte(data["holdfast.yaml"]), 0o600); err != nil {
		t.Fatal(err)
	}
	return load(t, nil, "-config", file)
}

func TestKubernetesSidecar(t *testing.T) {
	cfg := kubernetesConfig(t)
	d := decode[deployment](t, "kubernetes/deployment.yaml").Spec
	pod := d.Template.Spec
	if len(pod.InitContainers) != 1 || pod.InitContainers[0].RestartPolicy != "Always" {
		t.Fatalf("init containers %+v; want one, a sidecar", pod.InitContainers)
	}
	c := pod.InitContainers[0]

	checkContainer(t, cfg, c)

	server := pod.Containers[0].Lifecycle.PreStop.Sleep.Seconds
	if c.Lifecycle.PreStop.Sleep.Seconds > server || server == 0 {
		t.Error("the preStop of the sidecar outlasts the server's")
	}
	if least := server + int(cfg.Shutdown.DrainTimeout.Seconds()) + 5; pod.Grace < least {
		t.Errorf("terminationGracePeriodSeconds %d; preStop and drain need %d", pod.Grace, least)
	}
	if !pod.Security.RunAsNonRoot {
		t.Error("the pod may run as root")
	}
}

// checkContainer compares holdfast's container with its configuration.
func checkContainer(t *testing.T, cfg config.Config, c container) {
	t.Helper()
	ports := map[string]int{}
	for _, p := range c.Ports {
		ports[p.Name] = p.ContainerPort
	}
	want := map[string]int{"clients": portOf(t, cfg.Listen), "admin": portOf(t, cfg.Admin.Listen)}
	if cfg.Cluster.Enabled() {
		want["peers"] = portOf(t, cfg.Cluster.Listen)
	}
	if !maps.Equal(ports, want) {
		t.Errorf("ports %v; the configuration has %v", ports, want)
	}
	for name, p := range map[string][2]string{
		"startup":   {c.Startup.HTTPGet.Path, c.Startup.HTTPGet.Port},
		"readiness": {c.Readiness.HTTPGet.Path, c.Readiness.HTTPGet.Port},
		"liveness":  {c.Liveness.HTTPGet.Path, c.Liveness.HTTPGet.Port},
	} {
		path := "/healthz"
		if name == "readiness" {
			path = "/readyz"
		}
		if p != [2]string{path, "admin"} {
			t.Errorf("%s probe %v; want %s on admin", name, p, path)
		}
	}

	request, limit := memory(t, c.Resources.Requests["memory"]), memory(t, c.Resources.Limits["memory"])
	if part := float64(request) / float64(limit); part < 0.8 || part > 0.95 {
		t.Errorf("requests.memory, which is GOMEMLIMIT, is %.2f of the limit; want about 0.9", part)
	}
	if e := c.Env[0]; e.Name != "GOMEMLIMIT" || e.ValueFrom.ResourceFieldRef.Resource != "requests.memory" || e.ValueFrom.ResourceFieldRef.ContainerName != c.Name {
		t.Errorf("environment %+v; want GOMEMLIMIT from requests.memory", e)
	}

	s := c.Security
	if s.RunAsUser == 0 || s.AllowPrivilegeEscalation || !s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) {
		t.Errorf("security context %+v", s)
	}
	if image := read(t, "../Dockerfile"); !strings.Contains(image, "USER "+strconv.Itoa(s.RunAsUser)+":") {
		t.Errorf("the image's user is not %d", s.RunAsUser)
	}
}

func TestKubernetesSelectors(t *testing.T) {
	d := decode[deployment](t, "kubernetes/deployment.yaml").Spec
	labels := d.Template.Metadata.Labels
	type selector struct {
		MatchLabels map[string]string `yaml:"matchLabels"`
	}
	service := decode[struct {
		Spec struct {
			Selector        map[string]string
			SessionAffinity string `yaml:"sessionAffinity"`
		}
	}](t, "kubernetes/service.yaml").Spec
	if service.SessionAffinity != "ClientIP" {
		t.Errorf("sessionAffinity %q: clients would not return to their pod", service.SessionAffinity)
	}
	for name, match := range map[string]map[string]string{
		"deployment.yaml": d.Selector.MatchLabels,
		"service.yaml":    service.Selector,
		"networkpolicy.yaml": decode[struct {
			Spec struct {
				PodSelector selector `yaml:"podSelector"`
			}
		}](t, "kubernetes/networkpolicy.yaml").Spec.PodSelector.MatchLabels,
		"poddisruptionbudget.yaml": decode[struct{ Spec struct{ Selector selector } }](t, "kubernetes/poddisruptionbudget.yaml").Spec.Selector.MatchLabels,
		"podmonitor.yaml":          decode[struct{ Spec struct{ Selector selector } }](t, "kubernetes/podmonitor.yaml").Spec.Selector.MatchLabels,
	} {
		if len(match) == 0 || !maps.Equal(match, labels) {
			t.Errorf("%s selects %v; the pods have %v", name, match, labels)
		}
	}
}

func TestNetworkPolicyLeavesTwoPorts(t *testing.T) {
	cfg := kubernetesConfig(t)
	policy := decode[struct {
		Spec struct {
			Ingress []struct {
				Ports []struct{ Port int }
				From  []any
			}
		}
	}](t, "kubernetes/networkpolicy.yaml").Spec.Ingress
	if len(policy) != 2 || policy[0].Ports[0].Port != portOf(t, cfg.Listen) {
		t.Fatalf("ingress %+v; want the clients' port and the admin port", policy)
	}
	if admin := policy[1]; admin.Ports[0].Port != portOf(t, cfg.Admin.Listen) || len(admin.From) == 0 {
		t.Errorf("the admin port is %+v; want it for some only", admin)
	}
}

func TestKustomization(t *testing.T) {
	files := decode[struct{ Resources []string }](t, "kubernetes/kustomization.yaml").Resources
	if len(files) == 0 {
		t.Error("no resources")
	}
	for _, name := range files {
		read(t, filepath.Join("kubernetes", name))
	}
}

type composeFile struct {
	Services map[string]struct {
		Environment map[string]string
		Scale       int
		Image       string
		StopGrace   time.Duration `yaml:"stop_grace_period"`
		MemLimit    string        `yaml:"mem_limit"`
		Ports       []string
		ReadOnly    bool `yaml:"read_only"`
	}
}

// holdfastEnviron returns the variables of holdfast's service.
func (f composeFile) holdfastEnviron() (environ []string) {
	for name, value := range f.Services["holdfast"].Environment {
		environ = append(environ, name+"="+value)
	}
	return environ
}

func TestComposeWithServers(t *testing.T) {
	base, more := decode[composeFile](t, "compose/compose.yaml"), decode[composeFile](t, "compose/servers.yaml")
	cfg := load(t, append(base.holdfastEnviron(), more.holdfastEnviron()...))
	if cfg.Upstream.Discover != config.DNSDiscovery || config.HostName(cfg.Upstream.URL[0]) != "app" {
		t.Errorf("upstream %v, %s; want the addresses of app", cfg.Upstream.URL, cfg.Upstream.Discover)
	}
	if app := more.Services["app"]; app.Scale < 2 || len(base.Services["app"].Ports) > 0 {
		t.Errorf("app %+v; want several, without a port on the host", app)
	}
	if host := more.Services["app"].Environment["REDIS_HOST"]; more.Services[host].Image == "" {
		t.Errorf("the servers use %s, which is no service", host)
	}
}

func TestCompose(t *testing.T) {
	file := decode[composeFile](t, "compose/compose.yaml")
	service := file.Services["holdfast"]
	cfg := load(t, file.holdfastEnviron())
	if cfg.Upstream.URL.String() != "http://app:3000" {
		t.Errorf("upstream %s", cfg.Upstream.URL)
	}
	if service.StopGrace <= cfg.Shutdown.DrainTimeout {
		t.Errorf("stop_grace_period %v is not beyond the drain time %v", service.StopGrace, cfg.Shutdown.DrainTimeout)
	}
	if service.MemLimit != "512m" || service.Environment["GOMEMLIMIT"] != "460MiB" {
		t.Errorf("mem_limit %s, GOMEMLIMIT %s; the second must be 90 %% of the first", service.MemLimit, service.Environment["GOMEMLIMIT"])
	}
	for _, p := range service.Ports {
		if strings.HasSuffix(p, ":9090") && !strings.HasPrefix(p, "127.0.0.1:") {
			t.Errorf("port %s: the admin listener is public", p)
		}
	}
}

func TestSystemdUnit(t *testing.T) {
	unit := read(t, "systemd/holdfast.service")
	stop := regexp.MustCompile(`(?m)^TimeoutStopSec=(\d+s)$`).FindStringSubmatch(unit)
	if stop == nil {
		t.Fatal("no TimeoutStopSec")
	}
	timeout, err := time.ParseDuration(stop[1])
	if err != nil || timeout <= load(t, nil).Shutdown.DrainTimeout {
		t.Errorf("TimeoutStopSec %v, %v: not beyond the drain time", timeout, err)
	}
	if files := regexp.MustCompile(`(?m)^LimitNOFILE=(\d+)$`).FindStringSubmatch(unit); files == nil || len(files[1]) < 6 {
		t.Errorf("LimitNOFILE %v", files)
	}
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	n, err := strconv.Atoi(address[strings.LastIndex(address, ":")+1:])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// memory reads a quantity such as 512Mi.
func memory(t *testing.T, quantity string) config.Size {
	t.Helper()
	var n config.Size
	if err := yaml.Unmarshal([]byte(quantity+"B"), &n); err != nil {
		t.Fatal(err)
	}
	return n
}
