package charts

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	strict "sigs.k8s.io/yaml"
)

var chart = filepath.Join(root, "deploy", "helm", "holdfast")

// render renders the chart.
func render(t *testing.T, args ...string) objects {
	t.Helper()
	return decode(t, output(t, helm, append([]string{"template", "edge", chart, "--namespace", "chat", "--kube-version", "1.32.0"}, args...)...))
}

// valueFiles are the chart's sets of values for tests, by name.
func valueFiles(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(chart, "ci", "*-values.yaml"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%v, %v", files, err)
	}
	byName := map[string]string{}
	for _, f := range files {
		byName[strings.TrimSuffix(filepath.Base(f), "-values.yaml")] = f
	}
	return byName
}

func TestChartLints(t *testing.T) {
	for name, file := range valueFiles(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			output(t, helm, "lint", "--strict", "--kube-version", "1.32.0", "--values", file, chart)
		})
	}
}

func TestChart(t *testing.T) {
	for name, file := range valueFiles(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := render(t, "--values", file)
			if len(o.deployments) != 1 || len(o.configMaps) != 1 {
				t.Fatalf("rendered %v", o.kindsAndName)
			}
			d := o.deployments[0]
			pod, c := d.Spec.Template, d.Spec.Template.Spec.Containers[0]
			config := o.configMaps[0].Data["holdfast.yaml"]
			t.Run("config", func(t *testing.T) { checkChartConfig(t, config, c) })
			t.Run("selectors", func(t *testing.T) { checkSelectors(t, o, pod.Labels) })
			t.Run("ports", func(t *testing.T) { checkPorts(t, o, c) })
			t.Run("volumes", func(t *testing.T) { checkVolumes(t, o, pod.Spec) })
			t.Run("stopping", func(t *testing.T) { checkStopping(t, config, pod.Spec) })
			t.Run("security", func(t *testing.T) { checkSecurity(t, pod.Spec, c) })
		})
	}
}

// checkChartConfig runs holdfast -check with what the container gets.
func checkChartConfig(t *testing.T, config string, c core.Container) {
	var environ []string
	for _, e := range c.Env {
		switch {
		case e.Value != "":
			environ = append(environ, e.Name+"="+e.Value)
		case e.Name == "HOLDFAST_CLUSTER_PEERS":
			environ = append(environ, e.Name+"=redis://user:password@redis:6379/0")
		}
	}
	if strings.Contains(config, "cluster:") {
		config = withSecret(t, config)
	}
	effective := checkConfig(t, config, environ...)
	for _, p := range c.Ports {
		if !strings.Contains(effective, ":"+strconv.Itoa(int(p.ContainerPort))+" ") {
			t.Errorf("nothing listens on the container's port %d\n%s", p.ContainerPort, effective)
		}
	}
}

// checkSelectors checks that everything that selects pods selects those of the Deployment, and by
// no label that an upgrade changes.
func checkSelectors(t *testing.T, o objects, labels map[string]string) {
	for _, m := range o.podMonitors {
		checkSelector(t, "PodMonitor", m.Spec.Selector.MatchLabels, labels)
	}
	for _, p := range o.policies {
		checkSelector(t, "NetworkPolicy", p.Spec.PodSelector.MatchLabels, labels)
	}
	for _, b := range o.budgets {
		checkSelector(t, "PodDisruptionBudget", b.Spec.Selector.MatchLabels, labels)
	}
	for _, s := range o.services {
		checkSelector(t, "Service", s.Spec.Selector, labels)
	}
	d := o.deployments[0]
	checkSelector(t, "Deployment", d.Spec.Selector.MatchLabels, labels)
	for _, c := range d.Spec.Template.Spec.TopologySpreadConstraints {
		checkSelector(t, "topologySpreadConstraints", c.LabelSelector.MatchLabels, labels)
	}
	for _, a := range o.autoscalers {
		if ref := a.Spec.ScaleTargetRef; ref.Name != d.Name || ref.Kind != "Deployment" || d.Spec.Replicas != nil {
			t.Errorf("the autoscaler scales %+v; replicas %v", ref, d.Spec.Replicas)
		}
	}
	for _, p := range o.pods { // of helm test
		if maps.Equal(intersection(p.Labels, d.Spec.Selector.MatchLabels), d.Spec.Selector.MatchLabels) {
			t.Errorf("the Service would send clients to the pod %s", p.Name)
		}
	}
}

func checkSelector(t *testing.T, what string, selector, labels map[string]string) {
	t.Helper()
	want := []string{"app.kubernetes.io/instance", "app.kubernetes.io/name"}
	if !maps.Equal(intersection(selector, labels), selector) || !slices.Equal(slices.Sorted(maps.Keys(selector)), want) {
		t.Errorf("%s selects %v; the pods have %v", what, selector, labels)
	}
}

func intersection(a, b map[string]string) map[string]string {
	both := map[string]string{}
	for k, v := range a {
		if b[k] == v {
			both[k] = v
		}
	}
	return both
}

// checkPorts checks that Services, probes and policies use the container's ports.
func checkPorts(t *testing.T, o objects, c core.Container) {
	ports := map[string]int32{}
	for _, p := range c.Ports {
		ports[p.Name] = p.ContainerPort
	}
	use := func(what string, port intstr.IntOrString) {
		if _, ok := ports[port.StrVal]; !ok && !slices.Contains(slices.Collect(maps.Values(ports)), port.IntVal) {
			t.Errorf("%s uses port %v; the container has %v", what, port.String(), ports)
		}
	}
	for _, s := range o.services {
		for _, p := range s.Spec.Ports {
			use("Service "+s.Name, p.TargetPort)
		}
		headless := s.Spec.ClusterIP == "None"
		if headless != s.Spec.PublishNotReadyAddresses || headless != (s.Spec.Ports[0].Name == "peers") {
			t.Errorf("Service %s: %+v", s.Name, s.Spec)
		}
	}
	for name, p := range map[string]*core.Probe{"startup": c.StartupProbe, "readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
		if p == nil || p.HTTPGet == nil || p.HTTPGet.Port.StrVal != "admin" {
			t.Fatalf("the %s probe is %+v", name, p)
		}
		want := "/healthz"
		if name == "readiness" {
			want = "/readyz"
		}
		if p.HTTPGet.Path != want {
			t.Errorf("the %s probe asks for %s", name, p.HTTPGet.Path)
		}
	}
	for _, m := range o.podMonitors {
		use("PodMonitor", intstr.FromString(*m.Spec.PodMetricsEndpoints[0].Port))
	}
	for _, i := range o.ingresses {
		for _, r := range i.Spec.Rules {
			b := r.HTTP.Paths[0].Backend.Service
			if b.Name != o.services[0].Name || b.Port.Name != o.services[0].Spec.Ports[0].Name {
				t.Errorf("the Ingress leads to %+v", b)
			}
		}
	}
	// A port without a rule is closed. Each has its own callers.
	for _, p := range o.policies {
		open := map[int32]int{}
		for _, rule := range p.Spec.Ingress {
			use("NetworkPolicy", *rule.Ports[0].Port)
			open[rule.Ports[0].Port.IntVal] = len(rule.From)
		}
		if len(open) != len(ports) || open[ports["admin"]] == 0 {
			t.Errorf("the NetworkPolicy opens %v of %v", open, ports)
		}
		if peers, ok := ports["peers"]; ok {
			from := p.Spec.Ingress[len(p.Spec.Ingress)-1].From
			if open[peers] != 1 || !equalSelectors(from[0].PodSelector, &p.Spec.PodSelector) {
				t.Errorf("the peers' port is open to %+v", from)
			}
		}
	}
}

func equalSelectors(a, b *meta.LabelSelector) bool {
	return a != nil && b != nil && maps.Equal(a.MatchLabels, b.MatchLabels)
}

// checkVolumes checks that each mount has a volume, and each volume what the chart makes or a
// Secret that the user named.
func checkVolumes(t *testing.T, o objects, pod core.PodSpec) {
	made := map[string]bool{}
	for _, s := range o.secrets {
		made[s.Name] = true
		for key, value := range s.Data {
			if len(value) < 32 {
				t.Errorf("the secret %s/%s has %d bytes", s.Name, key, len(value))
			}
			if !strings.Contains(o.configMaps[0].Data["holdfast.yaml"], "/"+key) {
				t.Errorf("nothing reads the key %s", key)
			}
		}
	}
	volumes := map[string]bool{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = true
		if v.ConfigMap != nil && v.ConfigMap.Name != o.configMaps[0].Name {
			t.Errorf("the volume %s is the ConfigMap %s", v.Name, v.ConfigMap.Name)
		}
		if v.Secret != nil && strings.HasSuffix(v.Secret.SecretName, "-cluster") && !made[v.Secret.SecretName] && v.Secret.SecretName != "chat-cluster" {
			t.Errorf("nothing makes the Secret %s", v.Secret.SecretName)
		}
	}
	var paths []string
	for _, m := range pod.Containers[0].VolumeMounts {
		if !volumes[m.Name] {
			t.Errorf("the mount %s has no volume", m.Name)
		}
		for _, other := range paths { // a runtime cannot make a mount point in a read-only volume
			if strings.HasPrefix(m.MountPath+"/", other+"/") || strings.HasPrefix(other+"/", m.MountPath+"/") {
				t.Errorf("the mounts %s and %s are inside each other", m.MountPath, other)
			}
		}
		paths = append(paths, m.MountPath)
	}
	if pod.ServiceAccountName != o.accounts[0].Name {
		t.Errorf("the pods use the ServiceAccount %s", pod.ServiceAccountName)
	}
}

func checkStopping(t *testing.T, config string, pod core.PodSpec) {
	var c struct {
		Shutdown struct {
			DrainTimeout string `json:"drain_timeout"`
		} `json:"shutdown"`
	}
	if err := strict.Unmarshal([]byte(config), &c); err != nil {
		t.Fatal(err)
	}
	drain, err := strconv.ParseInt(strings.TrimSuffix(c.Shutdown.DrainTimeout, "s"), 10, 64)
	sleep := pod.Containers[0].Lifecycle.PreStop.Sleep
	if err != nil || sleep == nil || *pod.TerminationGracePeriodSeconds < drain+sleep.Seconds+5 {
		t.Errorf("terminationGracePeriodSeconds %d, preStop %+v, drain %s, %v", *pod.TerminationGracePeriodSeconds, sleep, c.Shutdown.DrainTimeout, err)
	}
}

func checkSecurity(t *testing.T, pod core.PodSpec, c core.Container) {
	s := c.SecurityContext
	if !*pod.SecurityContext.RunAsNonRoot || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || s.Capabilities.Drop[0] != "ALL" ||
		*pod.AutomountServiceAccountToken {
		t.Errorf("%+v, %+v", pod.SecurityContext, s)
	}
	request, limit := c.Resources.Requests.Memory().Value(), c.Resources.Limits.Memory().Value()
	if part := float64(request) / float64(limit); part < 0.8 || part > 0.95 {
		t.Errorf("requests.memory, which is GOMEMLIMIT, is %.2f of the limit; want about 0.9", part)
	}
}

// What depends on values.
func TestChartValues(t *testing.T) {
	has := func(o objects, kind string) bool {
		return slices.ContainsFunc(o.kindsAndName, func(name string) bool { return strings.HasPrefix(name, kind+"/") })
	}
	plain := render(t)
	for _, kind := range []string{"Secret", "PodMonitor", "HorizontalPodAutoscaler", "Ingress"} {
		if has(plain, kind) {
			t.Errorf("a %s without being asked for", kind)
		}
	}
	for _, kind := range []string{"NetworkPolicy", "PodDisruptionBudget", "ServiceAccount"} {
		if !has(plain, kind) {
			t.Errorf("no %s", kind)
		}
	}
	if one := render(t, "--set", "replicaCount=1"); has(one, "PodDisruptionBudget") {
		t.Error("a budget that keeps a single replica from being drained")
	}
	before, after := render(t), render(t, "--set", "config.recovery.max_parked_sessions=5")
	if sum := func(o objects) string { return o.deployments[0].Spec.Template.Annotations["checksum/config"] }; sum(before) == sum(after) {
		t.Error("a changed configuration does not replace the pods")
	}
	all := render(t, "--values", valueFiles(t)["everything"])
	if image := all.deployments[0].Spec.Template.Spec.Containers[0].Image; !strings.Contains(image, "/holdfast@sha256:") {
		t.Errorf("the image is %s", image)
	}
	if s := render(t, "--set", "cluster.enabled=true,cluster.redis.existingSecret=r").deployments[0]; !hasEnv(s, "HOLDFAST_CLUSTER_PEERS") {
		t.Error("the URL of Redis is not read from its Secret")
	}
}

func hasEnv(d *apps.Deployment, name string) bool {
	return slices.ContainsFunc(d.Spec.Template.Spec.Containers[0].Env, func(e core.EnvVar) bool { return e.Name == name && e.ValueFrom != nil })
}

// Mistakes fail the rendering of the chart, and not the start of a pod.
func TestChartRefusesBadValues(t *testing.T) {
	for values, want := range map[string]string{
		"replicaCont=3":                           "replicaCont",
		"config.recovry.max_packets=3":            "recovry",
		"config.recovery.max_parked_sessions=any": "max_parked_sessions",
		"upstream.url=chat:3000":                  "upstream",
		"upstream.discover=srv":                   "discover",
		"config.listen=:1":                        "the values ports and cluster",
		"config.admin.listen=:1":                  "the value ports",
		"config.upstream.url=http://a":            "the value upstream.url",
		"config.cluster.listen=:1":                "cluster",
		"service.type=Loadbalancer":               "service",
		"ports.clients=0":                         "clients",
	} {
		if _, err := tryOutput(t.Context(), helm, "template", "edge", chart, "--kube-version", "1.32.0", "--set", values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want an error about %q", values, err, want)
		}
	}
	if _, err := tryOutput(t.Context(), helm, "template", "edge", chart, "--kube-version", "1.28.0"); err == nil || !strings.Contains(err.Error(), "1.30") {
		t.Errorf("Kubernetes 1.28: %v", err)
	}
}

// What `make dist` packs is what helm packs, with the versions of the release.
func TestChartIsPacked(t *testing.T) {
	dir := t.TempDir()
	output(t, helm, "package", "--destination", dir, "--version", "1.2.3", "--app-version", "1.2.3", chart)
	release := exec.CommandContext(t.Context(), "go", "run", "./scripts/release", "dist", "-out", filepath.Join(dir, "dist"), "-platforms", "none",
		"-version", "v1.2.3", "-date", "2026-01-02T03:04:05Z")
	release.Dir = root
	if out, err := release.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var rendered [2]string
	for i, file := range []string{"holdfast-1.2.3.tgz", filepath.Join("dist", "holdfast-chart-1.2.3.tgz")} {
		text := output(t, helm, "template", "edge", filepath.Join(dir, file), "--kube-version", "1.32.0")
		if o := decode(t, text); len(o.deployments) != 1 || !strings.HasSuffix(o.deployments[0].Spec.Template.Spec.Containers[0].Image, ":1.2.3") {
			t.Errorf("%s: rendered %v", file, o.kindsAndName)
		}
		rendered[i] = string(text)
	}
	if rendered[0] != rendered[1] {
		t.Error("the chart of make dist renders something else than that of helm package")
	}
}

// withSecret replaces the mounted secret by one of the test.
func withSecret(t *testing.T, config string) string {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("s", 64)), 0o600); err != nil {
		t.Fatal(err)
	}
	mounted := regexp.MustCompile(`secret_file: (/etc/holdfast-cluster/\S+)`).FindStringSubmatch(config)
	if mounted == nil {
		t.Fatalf("no secret_file in\n%s", config)
	}
	return strings.Replace(config, mounted[1], secret, 1)
}
