package deploy_test

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/holdfast/holdfast/internal/config"
)

// object is what the tests read of any Kubernetes object.
type object struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		Selector    selector
		PodSelector struct {
			MatchLabels map[string]string `yaml:"matchLabels"`
		} `yaml:"podSelector"`
		ClusterIP                string `yaml:"clusterIP"`
		PublishNotReadyAddresses bool   `yaml:"publishNotReadyAddresses"`
		Ports                    []struct {
			Name, TargetPort string
			Port             int
		}
		Ingress []struct {
			Ports []struct{ Port int }
			From  []struct {
				PodSelector struct {
					MatchLabels map[string]string `yaml:"matchLabels"`
				} `yaml:"podSelector"`
				NamespaceSelector any `yaml:"namespaceSelector"`
			}
		}
	}
}

// selector is a Service's selector, or the matchLabels of the others.
type selector map[string]string

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *selector) UnmarshalYAML(node *yaml.Node) error {
	var nested struct {
		MatchLabels map[string]string `yaml:"matchLabels"`
	}
	if err := node.Decode(&nested); err == nil && nested.MatchLabels != nil {
		*s = nested.MatchLabels
		return nil
	}
	return node.Decode((*map[string]string)(s))
}

// objects returns the objects of a file by their names.
func objects(t *testing.T, name string) map[string]object {
	t.Helper()
	all := make(map[string]object)
	for d := yaml.NewDecoder(bytes.NewReader([]byte(read(t, name)))); ; {
		var o object
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all[o.Metadata.Name] = o
	}
}

func tierConfig(t *testing.T) config.Config {
	t.Helper()
	data := decode[struct{ Data map[string]string }](t, "kubernetes-tier/configmap.yaml").Data
	dir := t.TempDir()
	file, secret := filepath.Join(dir, "holdfast.yaml"), filepath.Join(dir, "secret")
	text := strings.Replace(data["holdfast.yaml"], mountedSecret, secret, 1)
	for name, content := range map[string]string{file: text, secret: strings.Repeat("s", config.MinSecret)} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return load(t, nil, "-config", file)
}

// mountedSecret is where holdfast.yaml mounts the key of secret.yaml.
const mountedSecret = "/etc/holdfast-cluster/secret"

// The replicas' Service, their port, the Secret and the configuration fit together.
func TestKubernetesTierFindsReplicas(t *testing.T) {
	cfg := tierConfig(t)
	service := objects(t, "kubernetes-tier/services.yaml")["holdfast-peers"]
	host, _, err := net.SplitHostPort(cfg.Cluster.Peers[0])
	port := portOf(t, cfg.Cluster.Listen)
	if err != nil || len(cfg.Cluster.Peers) != 1 || host != service.Metadata.Name || portOf(t, cfg.Cluster.Peers[0]) != port {
		t.Errorf("peers %v, listen %s; the Service is %s", cfg.Cluster.Peers, cfg.Cluster.Listen, service.Metadata.Name)
	}
	if s := service.Spec; s.ClusterIP != "None" || !s.PublishNotReadyAddresses || s.Ports[0].Port != port {
		t.Errorf("the Service %+v; want the addresses of all pods, also of those that drain", s)
	}
	if text := read(t, "kubernetes-tier/configmap.yaml"); !strings.Contains(text, "secret_file: "+mountedSecret+"\n") {
		t.Error("the secret is elsewhere")
	}
	mounts := read(t, "kubernetes-tier/holdfast.yaml")
	if !strings.Contains(mounts, "mountPath: "+path.Dir(mountedSecret)+",") || !strings.Contains(mounts, "secretName: holdfast-cluster}") {
		t.Error("the secret is not mounted")
	}
	secret := decode[struct {
		Metadata   struct{ Name string }
		StringData map[string]string `yaml:"stringData"`
	}](t, "kubernetes-tier/secret.yaml")
	if value, ok := secret.StringData[path.Base(mountedSecret)]; secret.Metadata.Name != "holdfast-cluster" || !ok || len(value) >= config.MinSecret {
		t.Errorf("the Secret %+v; want one that holdfast refuses, because everyone can read it", secret)
	}
}

func TestKubernetesTier(t *testing.T) {
	cfg := tierConfig(t)
	holdfast := decode[deployment](t, "kubernetes-tier/holdfast.yaml").Spec
	pod := holdfast.Template.Spec
	c := pod.Containers[0]
	checkContainer(t, cfg, c)
	if !pod.Security.RunAsNonRoot {
		t.Error("the pod may run as root")
	}
	if least := c.Lifecycle.PreStop.Sleep.Seconds + int(cfg.Shutdown.DrainTimeout.Seconds()) + 5; pod.Grace < least {
		t.Errorf("terminationGracePeriodSeconds %d; preStop and drain need %d", pod.Grace, least)
	}
	if c.Lifecycle.PreStop.Sleep.Seconds == 0 {
		t.Error("holdfast drains before the pod has left the Service")
	}
}

// The servers' Service, their port and the configuration fit together.
func TestKubernetesTierFindsServers(t *testing.T) {
	cfg := tierConfig(t)
	servers := decode[deployment](t, "kubernetes-tier/servers.yaml").Spec
	service := objects(t, "kubernetes-tier/services.yaml")["chat-servers"]
	if cfg.Upstream.Discover != config.DNSDiscovery || config.HostName(cfg.Upstream.URL[0]) != service.Metadata.Name {
		t.Errorf("upstream %v (%s); the Service is %s", cfg.Upstream.URL, cfg.Upstream.Discover, service.Metadata.Name)
	}
	if service.Spec.ClusterIP != "None" || service.Spec.PublishNotReadyAddresses {
		t.Errorf("the Service %+v; want the addresses of ready pods", service.Spec)
	}
	port := servers.Template.Spec.Containers[0].Ports[0]
	if _, address, _ := config.SplitURL(cfg.Upstream.URL[0]); portOf(t, address) != port.ContainerPort || service.Spec.Ports[0].Port != port.ContainerPort {
		t.Errorf("upstream %v, Service %d, container %d", cfg.Upstream.URL, service.Spec.Ports[0].Port, port.ContainerPort)
	}
	if c := servers.Template.Spec.Containers[0]; c.Lifecycle.PreStop.Sleep.Seconds <= 5 {
		t.Error("a server ends before holdfast has asked DNS again")
	}
}

func TestKubernetesTierSelectors(t *testing.T) {
	labels := map[string]map[string]string{}
	for name, file := range map[string]string{"holdfast": "holdfast.yaml", "chat-servers": "servers.yaml"} {
		d := decode[deployment](t, "kubernetes-tier/"+file).Spec
		labels[name] = d.Template.Metadata.Labels
		if !maps.Equal(d.Selector.MatchLabels, labels[name]) {
			t.Errorf("%s selects %v; its pods have %v", file, d.Selector.MatchLabels, labels[name])
		}
	}
	if maps.Equal(labels["holdfast"], labels["chat-servers"]) {
		t.Error("holdfast and the servers have the same labels")
	}
	// The others have the name of their pods.
	pods := map[string]string{"chat": "holdfast", "holdfast-peers": "holdfast"}
	for _, file := range []string{"services.yaml", "networkpolicies.yaml", "poddisruptionbudgets.yaml", "podmonitor.yaml"} {
		for name, o := range objects(t, "kubernetes-tier/"+file) {
			match := map[string]string(o.Spec.Selector)
			if match == nil {
				match = o.Spec.PodSelector.MatchLabels
			}
			of := pods[name]
			if of == "" {
				of = name
			}
			if len(match) == 0 || !maps.Equal(match, labels[of]) {
				t.Errorf("%s: %s selects %v; the pods of %s have %v", file, name, match, of, labels[of])
			}
		}
	}
}

func TestKubernetesTierNetworkPolicies(t *testing.T) {
	cfg := tierConfig(t)
	policies := objects(t, "kubernetes-tier/networkpolicies.yaml")
	holdfast := policies["holdfast"].Spec.Ingress
	if holdfast[0].Ports[0].Port != portOf(t, cfg.Listen) || len(holdfast[0].From) != 0 {
		t.Errorf("the clients' port: %+v", holdfast[0])
	}
	if holdfast[1].Ports[0].Port != portOf(t, cfg.Admin.Listen) || len(holdfast[1].From) != 1 || holdfast[1].From[0].NamespaceSelector == nil {
		t.Errorf("the admin port: %+v; want it for some only", holdfast[1])
	}
	if peers := holdfast[2]; peers.Ports[0].Port != portOf(t, cfg.Cluster.Listen) || len(peers.From) != 1 ||
		peers.From[0].PodSelector.MatchLabels["app.kubernetes.io/name"] != "holdfast" {
		t.Errorf("the peer port: %+v; want it for holdfast only", peers)
	}
	servers := policies["chat-servers"].Spec.Ingress
	_, address, _ := config.SplitURL(cfg.Upstream.URL[0])
	if len(servers) != 1 || servers[0].Ports[0].Port != portOf(t, address) || len(servers[0].From) != 1 ||
		servers[0].From[0].PodSelector.MatchLabels["app.kubernetes.io/name"] != "holdfast" {
		t.Errorf("the servers: %+v; want their port for holdfast only", servers)
	}
}

func TestKubernetesTierKustomization(t *testing.T) {
	files := decode[struct{ Resources []string }](t, "kubernetes-tier/kustomization.yaml").Resources
	for _, name := range files {
		read(t, filepath.Join("kubernetes-tier", name))
	}
	entries, err := os.ReadDir("kubernetes-tier")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if optional := []string{"kustomization.yaml", "podmonitor.yaml"}; !slices.Contains(files, e.Name()) && !slices.Contains(optional, e.Name()) {
			t.Errorf("%s is not applied", e.Name())
		}
	}
}
