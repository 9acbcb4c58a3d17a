package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// Cluster makes this process one of several replicas. A client then recovers at whichever replica
// it reaches.
type Cluster struct {
	// Listen is the peer port, where other replicas connect: host:port or :port. Default "", no
	// cluster.
	Listen string `yaml:"listen"`
	// Peers says where the other replicas are found: redis:// and rediss:// URLs, or host:port of
	// their peer ports. All addresses of a host name count. Default none. See Redis.
	Peers []string `yaml:"peers"`
	// Secret is the secret that all replicas share, of at least MinSecret bytes. Default "".
	Secret string `yaml:"secret"`
	// SecretFile is a file with the secret. It may have several lines: the first is presented, and
	// all are accepted. Default "".
	SecretFile string `yaml:"secret_file"`
	// Advertise is where other replicas dial this one: host:port. Default "", the address of this
	// machine that they would see.
	Advertise string `yaml:"advertise"`
	// Name tells clusters apart that share one Redis. Default holdfast.
	Name string `yaml:"name"`
}

// MinSecret is the least length of a cluster's secret in bytes.
const MinSecret = 32

// Enabled reports whether there may be other replicas.
func (c Cluster) Enabled() bool { return c.Listen != "" }

// Redis reports whether Peers are URLs of Redis or Valkey.
func (c Cluster) Redis() bool {
	return len(c.Peers) > 0 && isRedisURL(c.Peers[0])
}

func isRedisURL(text string) bool {
	return strings.HasPrefix(text, "redis://") || strings.HasPrefix(text, "rediss://")
}

// Secrets reads the secrets, the one to present first.
func (c Cluster) Secrets() ([]string, error) {
	if c.SecretFile == "" {
		return []string{c.Secret}, nil
	}
	text, err := os.ReadFile(c.SecretFile)
	if err != nil {
		return nil, err
	}
	var secrets []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" {
			secrets = append(secrets, line)
		}
	}
	if len(secrets) == 0 {
		return nil, fmt.Errorf("%s is empty", c.SecretFile)
	}
	for i, s := range secrets {
		if len(s) < MinSecret {
			return nil, fmt.Errorf("line %d has %d bytes, fewer than %d", i+1, len(s), MinSecret)
		}
	}
	return secrets, nil
}

// redactedPeer is redacted for an item of cluster.peers: the URL of Sentinel has a password in its
// query, too.
func redactedPeer(text string) string {
	return passwordInQuery.ReplaceAllString(redacted(text), "${1}xxxxx")
}

var passwordInQuery = regexp.MustCompile(`([?&]password=)[^&]*`)

const howToMakeSecret = "make one with: openssl rand -base64 32"

func (v *validator) cluster(c *Config) {
	k := &c.Cluster
	v.need(k.Name != "" && len(k.Name) <= 64 && strings.Trim(k.Name, nameLetters) == "", &k.Name,
		"1 to 64 letters, digits and . _ -")
	if !k.Enabled() {
		allowed := fmt.Sprintf("nothing while %s is \"\"; set that to the address of the peer port, such as :7400", v.key(&k.Listen))
		v.need(len(k.Peers) == 0, &k.Peers, allowed)
		v.need(k.Advertise == "", &k.Advertise, allowed)
		return
	}
	network, _ := SplitListen(k.Listen)
	v.need(network == "tcp" && validListen(k.Listen), &k.Listen, `host:port or :port, with a port number from 0 to 65535, or "" for no cluster`)
	for _, other := range []*string{&c.Listen, &c.Admin.Listen} {
		v.need(*other == "" || !sameAddress(k.Listen, *other), &k.Listen, "a different address than "+v.is(other))
	}
	v.secret(k)
	v.need(k.Advertise == "" || validPeer(k.Advertise), &k.Advertise, `host:port, where other replicas dial this one, or "" for automatic`)
	v.need(len(k.Peers) > 0, &k.Peers, "where the other replicas are: a redis:// URL, or host:port of their peer ports")
	for _, p := range k.Peers {
		if problem := checkPeer(p, k.Redis()); problem != "" && !v.bad[v.key(&k.Peers)] {
			v.problems = append(v.problems, v.sources.problem(v.key(&k.Peers), redactedPeer(p), problem))
			return // one problem of a list is enough
		}
	}
	if k.Redis() {
		if found, allowed := checkNodes(k.Peers); allowed != "" {
			v.problems = append(v.problems, v.sources.problem(v.key(&k.Peers), redactedPeer(found), allowed))
		}
	}
}

const nameLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

// secret checks that there is exactly one. It never repeats what it found.
func (v *validator) secret(k *Cluster) {
	report := func(field *string, message string) {
		if s := v.byField[field]; !v.bad[s.key] {
			v.problems = append(v.problems, Problem{Source: v.sources[s.key], Key: s.key, Message: message})
		}
	}
	switch {
	case k.Secret != "" && k.SecretFile != "":
		report(&k.SecretFile, "cluster.secret is set, too; allowed: one of them")
	case k.Secret == "" && k.SecretFile == "":
		report(&k.SecretFile, "there is no secret; allowed: a file that only the replicas can read, or the variable HOLDFAST_CLUSTER_SECRET; "+howToMakeSecret)
	case k.SecretFile == "" && len(k.Secret) < MinSecret:
		report(&k.Secret, fmt.Sprintf("found %d bytes; allowed: %d or more; %s", len(k.Secret), MinSecret, howToMakeSecret))
	}
}

// checkPeer returns "" for a valid item of cluster.peers, and otherwise what is allowed.
func checkPeer(text string, redis bool) (allowed string) {
	const forms = "redis://host:port URLs only, or host:port items only"
	if isRedisURL(text) != redis {
		return forms
	}
	if !redis {
		if validPeer(text) {
			return ""
		}
		return "host:port, such as 10.0.0.11:7400 or holdfast-peers:7400, or redis://host:port"
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		return "a URL such as redis://user:password@redis:6379/0"
	}
	if db := strings.Trim(u.Path, "/"); db != "" {
		if _, err := strconv.ParseUint(db, 10, 16); err != nil {
			return "a URL such as redis://redis:6379/0, with the number of the database at its end"
		}
	}
	return ""
}

// checkNodes returns "" for URLs of Redis that go together. Otherwise it returns one that does not,
// and what is allowed.
func checkNodes(urls []string) (found, allowed string) {
	first, err := url.Parse(urls[0])
	if err != nil {
		return urls[0], "a URL"
	}
	q := first.Query()
	isCluster := q.Get("master_name") == "" && (len(urls) > 1 || q.Get("cluster") == "true")
	if db := strings.Trim(first.Path, "/") + q.Get("db"); isCluster && strings.Trim(db, "0") != "" {
		return urls[0], "database 0, because several URLs, or cluster=true, mean Redis Cluster, which has no other one"
	}
	for _, text := range urls[1:] {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != first.Scheme || u.RawQuery != "" || strings.Trim(u.Path, "/") != "" && u.Path != first.Path ||
			u.User != nil && (first.User == nil || u.User.String() != first.User.String()) {
			return text, "the host and the port of another node: user, password and parameters are those of the first URL"
		}
	}
	return "", ""
}

func validPeer(text string) bool {
	host, port, err := net.SplitHostPort(text)
	if err != nil || !validHost(host) {
		return false
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.IsUnspecified() {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}
