package charts

import (
	"bytes"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
)

func TestSidecarComponent(t *testing.T) {
	o := decode(t, output(t, kustomize, "build", filepath.Join(root, "deploy", "kustomize", "example")))
	if len(o.deployments) != 2 || len(o.services) != 1 {
		t.Fatalf("rendered %v", o.kindsAndName)
	}
	chat, worker := o.deployments[0], o.deployments[1]
	if len(worker.Spec.Template.Spec.InitContainers) > 0 {
		t.Error("a Deployment without the label gets the sidecar")
	}
	pod := chat.Spec.Template.Spec
	if len(pod.InitContainers) != 1 || len(pod.Containers) != 1 || pod.Containers[0].Image != "chat:1" {
		t.Fatalf("the pod is %+v", pod)
	}
	c := pod.InitContainers[0]
	if c.RestartPolicy == nil || *c.RestartPolicy != core.ContainerRestartPolicyAlways {
		t.Error("it is no sidecar")
	}
	if target := o.services[0].Spec.Ports[0].TargetPort.StrVal; target != c.Ports[0].Name {
		t.Errorf("the Service leads to %s", target)
	}
	if o.services[0].Spec.SessionAffinity != core.ServiceAffinityClientIP {
		t.Error("clients do not return to their pod")
	}

	// The container gets the variables of the ConfigMaps; the last one wins.
	settings := map[string]string{}
	for _, from := range c.EnvFrom {
		found := false
		for _, m := range o.configMaps {
			if m.Name == from.ConfigMapRef.Name {
				found = true
				maps.Copy(settings, m.Data)
			}
		}
		if !found {
			t.Errorf("there is no ConfigMap %s", from.ConfigMapRef.Name)
		}
	}
	var environ []string
	for name, value := range settings {
		environ = append(environ, name+"="+value)
	}
	effective := checkConfig(t, "", environ...)
	for _, want := range []string{"url: http://127.0.0.1:8000 ", "listen: :8080 ", "listen: :9090 "} {
		if !strings.Contains(effective, want) {
			t.Errorf("the settings do not contain %q\n%s", want, effective)
		}
	}
}

// The documents promise that two lines in kustomization.yaml and a label suffice.
func TestSidecarNeedsNoSettings(t *testing.T) {
	text := output(t, kustomize, "build", filepath.Join("testdata", "least"))
	o := decode(t, text)
	if len(o.deployments) != 1 || len(o.deployments[0].Spec.Template.Spec.InitContainers) != 1 {
		t.Fatalf("rendered %v", o.kindsAndName)
	}
	if !bytes.Contains(text, []byte("optional: true")) {
		t.Error("the user's settings are not optional")
	}
}

func TestManifests(t *testing.T) {
	o := decode(t, output(t, kustomize, "build", filepath.Join(root, "deploy", "kubernetes")))
	if len(o.deployments) != 1 || len(o.configMaps) != 1 {
		t.Fatalf("rendered %v", o.kindsAndName)
	}
	checkConfig(t, o.configMaps[0].Data["holdfast.yaml"])
	for _, optional := range []string{"ingress.yaml", "podmonitor.yaml"} {
		decode(t, output(t, "cat", filepath.Join(root, "deploy", "kubernetes", optional)))
	}
}

// The tier has two Deployments: holdfast, and the servers that it finds.
func TestTierManifests(t *testing.T) {
	o := decode(t, output(t, kustomize, "build", filepath.Join(root, "deploy", "kubernetes-tier")))
	if len(o.deployments) != 2 || len(o.configMaps) != 1 {
		t.Fatalf("rendered %v", o.kindsAndName)
	}
	checkConfig(t, withSecret(t, o.configMaps[0].Data["holdfast.yaml"]))
	decode(t, output(t, "cat", filepath.Join(root, "deploy", "kubernetes-tier", "podmonitor.yaml")))
}
