package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
)

// SplitListen returns the arguments of net.Listen for Config.Listen or
// Admin.Listen.
func SplitListen(addr string) (network, address string) {
	if p, ok := strings.CutPrefix(addr, "unix://"); ok {
		return "unix", p
	}
	return "tcp", addr
}

// SplitURL returns the arguments of net.Dial for a valid URL of an upstream, and
// whether it uses TLS.
func SplitURL(text string) (network, address string, secure bool) {
	parsed, err := url.Parse(text)
	if err != nil {
		return "tcp", "", false
	}
	port := parsed.Port()
	switch {
	case parsed.Scheme == "unix":
		return "unix", parsed.Path, false
	case port == "" && parsed.Scheme == "https":
		port = "443"
	case port == "":
		port = "80"
	}
	return "tcp", net.JoinHostPort(parsed.Hostname(), port), parsed.Scheme == "https"
}

// TrustedPrefixes parses TrustedProxies. A single address becomes a prefix of
// full length. IPv4 prefixes are not mapped to IPv6: unmap a peer's address
// before you compare it.
func (c Config) TrustedPrefixes() []netip.Prefix {
	prefixes := make([]netip.Prefix, 0, len(c.TrustedProxies))
	for _, text := range c.TrustedProxies {
		if p, problem := parsePrefix(text); problem == "" {
			prefixes = append(prefixes, p)
		}
	}
	return prefixes
}

// ExcludesKnown reports whether clients that are known to be unable to resume get
// no recovery.
func (c Clients) ExcludesKnown() bool { return c.Mode == AutoClients || c.Mode == OptOut }

// Filter returns a function that reports whether the client of a handshake gets
// recovery, as far as Query and UserAgent decide. It is safe for concurrent use.
// Filter fails if UserAgent is not a regular expression.
func (c Clients) Filter() (func(query url.Values, userAgent string) bool, error) {
	if c.Mode == AutoClients || c.Mode == AllClients {
		return func(url.Values, string) bool { return true }, nil
	}
	expression, err := regexp.Compile(c.UserAgent)
	if err != nil {
		return nil, fmt.Errorf("config: user agent: %w", err)
	}
	return func(query url.Values, userAgent string) bool {
		chosen := c.UserAgent != "" && expression.MatchString(userAgent)
		if c.Query != "" && query.Has(c.Query) {
			value := query.Get(c.Query)
			chosen = chosen || value != "0" && value != "false"
		}
		return chosen == (c.Mode == OptIn)
	}, nil
}

// fallbackBudget is the budget if the process has no memory limit.
const fallbackBudget = 512 * MiB

// Budget returns TotalBytes. If that is 0, it returns half of GOMEMLIMIT or of
// the container's memory limit, whichever is less, or 512MiB if there is
// neither. The reason says which, for a log line.
func (b Buffer) Budget() (total Size, reason string) {
	return b.budget(debug.SetMemoryLimit(-1), os.DirFS("/"))
}

// budget is Budget for a memory limit of the Go runtime (math.MaxInt64 for
// none) and a root directory.
func (b Buffer) budget(memoryLimit int64, root fs.FS) (total Size, reason string) {
	if b.TotalBytes != 0 {
		return b.TotalBytes, "configured"
	}
	limit, reason := Size(math.MaxInt64), ""
	if memoryLimit < math.MaxInt64 {
		limit, reason = Size(memoryLimit), "half of GOMEMLIMIT"
	}
	if container, ok := containerLimit(root); ok && container < limit {
		limit, reason = container, "half of the container's memory limit"
	}
	if reason == "" {
		return fallbackBudget, "no memory limit found"
	}
	return limit / 2, reason
}

// ContainerLimit returns the memory limit of the process's container, if it has one.
func ContainerLimit() (Size, bool) { return containerLimit(os.DirFS("/")) }

// containerLimit returns the lowest memory limit of the process's control
// groups, v2 or v1, and of their ancestors.
func containerLimit(root fs.FS) (Size, bool) {
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0, false
	}
	limit, ok := Size(0), false
	for line := range strings.Lines(string(groups)) {
		// hierarchy:controllers:path; v2 has no controllers.
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		dir, files := "", []string(nil)
		switch {
		case fields[1] == "":
			dir, files = "sys/fs/cgroup", []string{"memory.max", "memory.high"}
		case strings.Contains(","+fields[1]+",", ",memory,"):
			dir, files = "sys/fs/cgroup/memory", []string{"memory.limit_in_bytes"}
		default:
			continue
		}
		// In a container the path may be the host's and not exist. Go up to the
		// root of the mount, which is the container's own group.
		for group := path.Clean("/" + fields[2]); ; group = path.Dir(group) {
			for _, file := range files {
				n, err := readLimit(root, path.Join(dir, group, file))
				if err == nil && (!ok || n < limit) {
					limit, ok = n, true
				}
			}
			if group == "/" {
				break
			}
		}
	}
	return limit, ok
}

var errNoLimit = errors.New("config: no memory limit")

func readLimit(root fs.FS, file string) (Size, error) {
	text, err := fs.ReadFile(root, file)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	// No limit is "max" in v2, and an impossibly high number in v1.
	if err != nil || n <= 0 || n >= 1<<60 {
		return 0, errNoLimit
	}
	return Size(n), nil
}
