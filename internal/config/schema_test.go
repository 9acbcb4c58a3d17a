package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

var update = flag.Bool("update", false, "write config.schema.json, and the schema of the Helm chart's values")

var schemaFile = filepath.Join("..", "..", "config.schema.json")

// schema is the one that the code makes.
func schema(t *testing.T) []byte {
	t.Helper()
	text, err := Schema([]byte(read(t, "..", "..", "config.example.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// check validates the text of a file against the schema.
func check(t *testing.T) func(text string) error {
	t.Helper()
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema(t)))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("holdfast.json", parsed); err != nil {
		t.Fatal(err)
	}
	compiled, err := c.Compile("holdfast.json")
	if err != nil {
		t.Fatal(err)
	}
	return func(text string) error {
		var value any
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			t.Fatal(err)
		}
		return compiled.Validate(value)
	}
}

// checkValuesSchema checks that the Helm chart's schema of its values ends with the schema of the
// configuration file, for the value config.
func checkValuesSchema(t *testing.T, schema []byte) {
	t.Helper()
	name := filepath.Join("..", "..", "deploy", "helm", "holdfast", "values.schema.json")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	const key = "\n    \"config\": "
	head, _, ok := bytes.Cut(text, []byte(key))
	if !ok {
		t.Fatalf("%s has no property config, which is its last one", name)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, schema, "    ", "  "); err != nil {
		t.Fatal(err)
	}
	config := bytes.TrimSpace(indented.Bytes())
	config = regexp.MustCompile(`\n *"\$schema": [^\n]*`).ReplaceAll(config, nil)
	want := slices.Concat(head, []byte(key), config, []byte("\n  }\n}\n"))
	if *update {
		if err := os.WriteFile(name, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(text, want) {
		t.Errorf("%s does not have the schema of the configuration file: run make schema", name)
	}
}

func TestSchemaFile(t *testing.T) {
	want := schema(t)
	if *update {
		if err := os.WriteFile(schemaFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(schemaFile); err != nil || !bytes.Equal(got, want) {
		t.Errorf("config.schema.json is not what the code makes (%v): run make schema", err)
	}
	checkValuesSchema(t, want)
	example := read(t, "..", "..", "config.example.yaml")
	if !strings.HasPrefix(example, "# yaml-language-server: $schema=./config.schema.json\n") {
		t.Error("config.example.yaml does not name the schema in its first line")
	}
	if n := bytes.Count(want, []byte(`"description"`)); n < len(allKeys)+1 {
		t.Errorf("%d descriptions for %d settings", n, len(allKeys))
	}
}

// The schema accepts what the loader accepts.
func TestSchemaAccepts(t *testing.T) {
	valid := check(t)
	texts := []string{
		read(t, "..", "..", "config.example.yaml"),
		"recovery:\nlimits:\n  # all commented out\n",
		"listen: unix:///run/holdfast.sock\nadmin: {listen: \"\"}\n",
		"listen: '[::]:80'\nupstream: {url: 'unix:///run/app.sock', dial_timeout: 1h30m}\n",
		"upstream: {url: 'https://example.com:8443/', dial_timeout: .5s}\n",
		"upstream: {url: ['http://a:1', 'unix:///run/app.sock'], health: {path: /healthz}}\n",
		"upstream: {url: ['http://a'], discover: dns, dns_server: '[::1]:53'}\n",
		"recovery: {max_disconnection_duration: 0, buffer: {window: 65536, max_bytes: 16 mib}}\n",
		"upstream: {protocol: 3}\n", "upstream: {protocol: '3', translate: {auth_to_query: [token]}}\n", "upstream: {protocol: auto}\n",
		"engineio: {paths: [/], max_payload: 1000000, ping_interval: 1.5s}\n",
	}
	page := read(t, "..", "..", "docs", "configuration.md")
	for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(page, -1) {
		texts = append(texts, m[1])
	}
	for _, text := range texts {
		l := newLoader()
		l.applyYAML("example", []byte(text))
		for _, p := range append(l.problems, l.config.validate(l.sources, l.bad)...) {
			t.Errorf("the loader: %v in\n%s", p, text)
		}
		if err := valid(text); err != nil {
			t.Errorf("%v in\n%s", err, text)
		}
	}
}

// The schema catches mistakes that the loader catches.
func TestSchemaRefuses(t *testing.T) {
	valid := check(t)
	for _, text := range []string{
		"lissten: :8080",
		"recovery: {buffer: {maxBytes: 1MiB}}",
		"recovery: [buffer]",
		"listen: 8080",
		"listen: localhost",
		"upstream: {url: 'ftp://example.com'}",
		"upstream: {url: 'http://example.com/app'}",
		"upstream: {url: []}",
		"upstream: {url: ['http://a', 'http://example.com/app']}",
		"upstream: {url: {a: b}}",
		"upstream: {discover: always}",
		"upstream: {dns_server: a}",
		"upstream: {health: {path: healthz}}",
		"upstream: {health: {interval: 0}}",
		"upstream: {dial_timeout: 5}",
		"upstream: {dial_timeout: 0}",
		"upstream: {dial_timeout: 5 seconds}",
		"upstream: {max_concurrent_dials: 0}",
		"upstream: {handshake: sometimes}",
		"upstream: {protocol: 2}",
		"upstream: {protocol: v4}",
		"engineio: {paths: []}",
		"engineio: {paths: [socket.io]}",
		"engineio: {max_payload: 1.5MB}",
		"engineio: {max_payload: -1}",
		"recovery: {max_disconnection_duration: 120}",
		"recovery: {ack_events: twice}",
		"recovery: {namespaces: {include: []}}",
		"recovery: {clients: {mode: some}}",
		"limits: {max_connections: -1}",
		"limits: {max_connections: many}",
		"admin: {profiling: sometimes}",
		"trusted_proxies: 10.0.0.0/8",
		"log: {level: loud}",
		"log: {format: xml}",
	} {
		l := newLoader()
		l.applyYAML("example", []byte(text))
		if problems := append(l.problems, l.config.validate(l.sources, l.bad)...); len(problems) == 0 {
			t.Errorf("the loader takes %s", text)
		}
		if valid(text) == nil {
			t.Errorf("the schema takes %s", text)
		}
	}
}
