package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const testSecret = "0123456789abcdef0123456789abcdef"

func TestClusterSettings(t *testing.T) {
	valid := func(c *Config) {
		c.Cluster.Listen, c.Cluster.Peers, c.Cluster.Secret = ":7400", []string{"10.0.0.11:7400", "peers:7400"}, testSecret
	}
	for _, tt := range []struct {
		name   string
		change func(c *Config)
		want   string // "" if it is valid
	}{
		{"hosts", func(*Config) {}, ""},
		{"Redis", func(c *Config) { c.Cluster.Peers = []string{"rediss://user:pw@redis:6379/1"} }, ""},
		{"Redis Cluster", func(c *Config) { c.Cluster.Peers = []string{"redis://a:1", "redis://b:1"} }, ""},
		{"Redis Cluster with a password", func(c *Config) { c.Cluster.Peers = []string{"redis://:hush@a:1", "redis://b:1", "redis://:hush@c:1/"} }, ""},
		{"Sentinel", func(c *Config) { c.Cluster.Peers = []string{"redis://a/2?master_name=m&password=hush", "redis://b"} }, ""},
		{"nodes with several passwords", func(c *Config) { c.Cluster.Peers = []string{"redis://:hush@a:1", "redis://:hush2@b:1"} }, `found "redis://xxxxx@b:1" (the default); allowed: the host and the port of another node: user, password and parameters are those of the first URL`},
		{"nodes with and without TLS", func(c *Config) { c.Cluster.Peers = []string{"redis://a:1", "rediss://b:1"} }, `found "rediss://b:1" (the default); allowed: the host and the port of another node`},
		{"Sentinel, named again", func(c *Config) {
			c.Cluster.Peers = []string{"redis://a?master_name=m", "redis://b?master_name=m&password=hush"}
		}, `found "redis://b?master_name=m&password=xxxxx"`},
		{"Redis Cluster with a database", func(c *Config) { c.Cluster.Peers = []string{"redis://a:1/3?cluster=true"} }, "allowed: database 0, because several URLs, or cluster=true, mean Redis Cluster"},
		{"the same as a parameter", func(c *Config) { c.Cluster.Peers = []string{"redis://a:1?db=3", "redis://b:1"} }, "allowed: database 0"},
		{"an address to advertise", func(c *Config) { c.Cluster.Advertise = "holdfast-0.peers:7400" }, ""},
		{"no secret", func(c *Config) { c.Cluster.Secret = "" }, "cluster.secret_file: there is no secret; allowed: a file"},
		{"a short secret", func(c *Config) { c.Cluster.Secret = "short" }, "cluster.secret: found 5 bytes; allowed: 32 or more; make one with: openssl"},
		{"two secrets", func(c *Config) { c.Cluster.SecretFile = "x" }, "cluster.secret_file: cluster.secret is set, too"},
		{"no peers", func(c *Config) { c.Cluster.Peers = nil }, "cluster.peers: found \"\""},
		{"a peer without a port", func(c *Config) { c.Cluster.Peers = []string{"10.0.0.11"} }, `cluster.peers: found "10.0.0.11"`},
		{"a peer at any address", func(c *Config) { c.Cluster.Peers = []string{"0.0.0.0:7400"} }, `cluster.peers: found "0.0.0.0:7400"`},
		{"a mixture", func(c *Config) { c.Cluster.Peers = []string{"redis://a:1", "b:1"} }, `found "b:1" (the default); allowed: redis://host:port URLs only`},
		{"a bad database, without its password", func(c *Config) { c.Cluster.Peers = []string{"redis://:hush@a:1/x"} }, `found "redis://xxxxx@a:1/x"`},
		{"the clients' address", func(c *Config) { c.Cluster.Listen = ":8080" }, "cluster.listen: found \":8080\" (the default); allowed: a different address than listen"},
		{"a Unix socket", func(c *Config) { c.Cluster.Listen = "unix:///run/peers.sock" }, "cluster.listen: found"},
		{"an address that is none", func(c *Config) { c.Cluster.Advertise = "7400" }, "cluster.advertise: found"},
		{"a name with spaces", func(c *Config) { c.Cluster.Name = "a b" }, "cluster.name: found"},
		{"peers without a port to listen on", func(c *Config) { c.Cluster.Listen = "" }, `cluster.peers: found "10.0.0.11:7400,peers:7400" (the default); allowed: nothing while cluster.listen is ""`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := Default()
			valid(&c)
			tt.change(&c)
			err := c.Validate()
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v\nwant %s", err, tt.want)
			case err != nil && (strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), testSecret)):
				t.Errorf("a secret is shown: %v", err)
			}
		})
	}
}

// Passwords are in the authority of a URL, and with Sentinel also in its query.
func TestPeersAreShownWithoutPasswords(t *testing.T) {
	c := Default()
	c.Cluster.Peers = []string{"redis://u:hush@a:1/2?db=1&password=hush&master_name=m", "redis://b?password=hush"}
	want := []string{"redis://xxxxx@a:1/2?db=1&password=xxxxx&master_name=m", "redis://b?password=xxxxx"}
	if got := c.Redacted().Cluster.Peers; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSecretFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	for text, want := range map[string][]string{
		testSecret: {testSecret},
		"  " + testSecret + " \r\n\n\t" + testSecret + "x\r\n": {testSecret, testSecret + "x"},
		"": nil, "short\n": nil, testSecret + "\nshort": nil,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		secrets, err := Cluster{SecretFile: file}.Secrets()
		if !slices.Equal(secrets, want) || (err == nil) != (len(want) > 0) {
			t.Errorf("%q: %q, %v", text, secrets, err)
		}
	}
	if _, err := (Cluster{SecretFile: file + ".absent"}).Secrets(); err == nil {
		t.Error("a file that is not there is accepted")
	}
}

func TestRedacted(t *testing.T) {
	c := Default()
	c.Cluster.Secret, c.Cluster.Peers = testSecret, []string{"redis://:hush@a:1"}
	text := string(c.Redacted().YAML(nil))
	if strings.Contains(text, testSecret) || strings.Contains(text, "hush") || c.Cluster.Peers[0] != "redis://:hush@a:1" {
		t.Errorf("%v in\n%s", c.Cluster.Peers, text)
	}
}
