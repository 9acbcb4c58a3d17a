package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// URLs are the URLs of one server or of several. In a YAML file a single one may
// be a text instead of a list.
type URLs []string

// String returns the URLs for people to read. Valid ones contain no password.
func (u URLs) String() string { return strings.Join(u, ", ") }

// urls checks the settings that say which servers there are.
func (v *validator) urls(u *Upstream) {
	v.oneOf(&u.Discover, string(u.Discover), string(NoDiscovery), string(DNSDiscovery))
	v.need(len(u.URL) > 0, &u.URL, "at least one URL, such as http://127.0.0.1:3000")
	for i, text := range u.URL {
		problem := checkURL(text)
		if problem == "" && slices.ContainsFunc(u.URL[:i], func(other string) bool { return sameServer(text, other) }) {
			problem = "each server once"
		}
		if problem != "" && !v.bad[v.key(&u.URL)] {
			v.problems = append(v.problems, v.sources.problem(v.key(&u.URL), redacted(text), problem))
		}
	}
	if u.Discover == DNSDiscovery && len(u.URL) > 0 {
		v.need(slices.ContainsFunc(u.URL, func(text string) bool { return HostName(text) != "" }), &u.URL,
			fmt.Sprintf("a URL with a host name, because %s looks it up", v.is(&u.Discover)))
	}
	v.need(u.DNSServer == "" || validDNSServer(u.DNSServer), &u.DNSServer,
		`an IP address and a port, such as 127.0.0.1:8600, or "" for the system's DNS servers`)
	if field, ok := v.blame(&u.DNSServer, &u.Discover); ok && u.DNSServer != "" && u.Discover != DNSDiscovery {
		allowed := fmt.Sprintf(`"" unless %s is %s`, v.key(&u.Discover), DNSDiscovery)
		if field == any(&u.Discover) {
			allowed = fmt.Sprintf("%s because of %s", DNSDiscovery, v.is(&u.DNSServer))
		}
		v.need(false, field, allowed)
	}
	v.need(u.Health.Path == "" || validRequestPath(u.Health.Path), &u.Health.Path,
		`a path with a leading slash, such as /healthz, or "" for no health checks`)
	v.positive(&u.Health.Interval)
	v.positive(&u.Health.Timeout)
}

// loop checks that no URL is holdfast's own listener: one request would come back
// until there are no file descriptors left. Names other than localhost are not
// looked up here: package upstream refuses such a connection when it is made.
func (v *validator) loop(c *Config) {
	field, ok := v.blame(&c.Upstream.URL, &c.Listen)
	if !ok {
		return
	}
	for _, text := range c.Upstream.URL {
		switch {
		case !isListener(c.Listen, text):
		case field == any(&c.Listen):
			v.need(false, field, "a different address than "+v.is(&c.Upstream.URL))
			return
		default:
			v.problems = append(v.problems, v.sources.problem(v.key(field), redacted(text),
				"the server's address, which is a different one than "+v.is(&c.Listen)))
		}
	}
}

// isListener reports whether a URL leads to the listener at listen.
func isListener(listen, text string) bool {
	listenNetwork, listenAddress := SplitListen(listen)
	network, address, _ := SplitURL(text)
	if network != listenNetwork || network == "unix" {
		return network == listenNetwork && address == listenAddress
	}
	listenHost, listenPort, err := net.SplitHostPort(listenAddress)
	if err != nil {
		return false
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || port != listenPort || port == "0" {
		return false
	}
	switch {
	case strings.EqualFold(host, listenHost):
		return true
	case unspecified(listenHost):
		return loopback(host) || unspecified(host)
	case strings.EqualFold(host, "localhost") || unspecified(host):
		return loopback(listenHost)
	}
	return strings.EqualFold(listenHost, "localhost") && loopback(host)
}

// loopback reports whether a host is this machine's loopback interface.
func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && addr.IsLoopback()
}

// HostName returns the host of a valid URL if DNS must be asked for its
// addresses, and otherwise "".
func HostName(text string) string {
	network, address, _ := SplitURL(text)
	host, _, err := net.SplitHostPort(address)
	if network == "unix" || err != nil {
		return ""
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return ""
	}
	return host
}

// sameServer reports whether two URLs lead to the same address.
func sameServer(a, b string) bool {
	networkA, addressA, secureA := SplitURL(a)
	networkB, addressB, secureB := SplitURL(b)
	return networkA == networkB && strings.EqualFold(addressA, addressB) && secureA == secureB
}

func validDNSServer(text string) bool {
	ap, err := netip.ParseAddrPort(text)
	return err == nil && ap.Port() != 0
}

// validRequestPath reports whether text can be a request's path, with or without
// a query.
func validRequestPath(text string) bool {
	_, err := url.ParseRequestURI(text)
	return err == nil && strings.HasPrefix(text, "/") && !strings.HasPrefix(text, "//") && !strings.Contains(text, "#") &&
		strconv.Quote(text) == `"`+text+`"` && !strings.Contains(text, " ")
}
