package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/textproto"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Validate checks every setting. The error is an *Error with all problems. It
// does not read files: Load does that.
func (c Config) Validate() error { return asError(c.validate(nil, nil)) }

// validator names settings by the address of their field, so that no key is
// written down a second time.
type validator struct {
	byField  map[any]setting // pointer to the field
	sources  Sources
	bad      map[string]bool // keys to skip: their value could not be parsed
	problems []Problem
	bounds   *bounds // not nil: record what single settings may be, for Schema
}

// need adds a problem for the setting at field unless ok.
func (v *validator) need(ok bool, field any, allowed string) {
	s := v.byField[field]
	if ok || v.bad[s.key] {
		return
	}
	v.problems = append(v.problems, v.sources.problem(s.key, s.format(), allowed))
}

// needItem adds a problem for an item of the list at field unless ok.
func (v *validator) needItem(ok bool, field *[]string, item, allowed string) {
	s := v.byField[field]
	if ok || v.bad[s.key] {
		return
	}
	v.problems = append(v.problems, v.sources.problem(s.key, item, allowed))
}

// blame picks which of two conflicting settings to report: the first that is not
// a default. It returns false if one of them could not be parsed.
func (v *validator) blame(a, b any) (field any, ok bool) {
	if v.bad[v.byField[a].key] || v.bad[v.byField[b].key] {
		return nil, false
	}
	if v.sources[v.byField[a].key] == "" && v.sources[v.byField[b].key] != "" {
		return b, true
	}
	return a, true
}

func (v *validator) key(field any) string { return v.byField[field].key }

// is returns "KEY (VALUE)", to name the other side of a conflict.
func (v *validator) is(field any) string {
	s := v.byField[field]
	return fmt.Sprintf("%s (%s)", s.key, s.format())
}

func (c Config) validate(sources Sources, bad map[string]bool) []Problem {
	return c.validateInto(&validator{sources: sources, bad: bad})
}

func (c Config) validateInto(v *validator) []Problem {
	v.byField = map[any]setting{}
	for _, s := range settings(&c) {
		v.byField[s.value.Addr().Interface()] = s
	}
	v.listeners(&c)
	v.upstream(&c.Upstream)
	v.engineIO(&c.EngineIO)
	v.recovery(&c.Recovery)
	for _, list := range []*[]string{&c.Events.Volatile, &c.Events.Latest, &c.Events.Join} {
		for _, text := range *list {
			_, problem := parseEventPattern(text)
			v.needItem(problem == "", list, text, problem)
		}
	}
	for _, name := range []*string{&c.Notify.Parked, &c.Notify.Resumed} {
		v.need(*name == "" || validEventName(*name), name,
			`an event name, such as client_parked, but not a number or a name that Socket.IO reserves, such as disconnect; or "" for none`)
	}
	if field, ok := v.blame(&c.Notify.Resumed, &c.Notify.Parked); ok && c.Notify.Parked != "" && c.Notify.Parked == c.Notify.Resumed {
		other := any(&c.Notify.Parked)
		if field == other {
			other = &c.Notify.Resumed
		}
		v.need(false, field, "a different name than "+v.is(other))
	}
	v.cluster(&c)
	v.limits(&c.Limits)
	for _, p := range c.TrustedProxies {
		_, problem := parsePrefix(p)
		v.needItem(problem == "", &c.TrustedProxies, p, problem)
	}
	v.need(c.Shutdown.DrainTimeout >= 0, &c.Shutdown.DrainTimeout, "0 or more")
	v.handover(&c.Handover)
	v.oneOf(&c.Log.Level, c.Log.Level, "debug", "info", "warn", "error")
	v.oneOf(&c.Log.Format, c.Log.Format, "text", "json")
	return v.problems
}

func (v *validator) oneOf(field any, value string, allowed ...string) {
	if v.bounds != nil {
		v.bounds.choices[v.key(field)] = allowed
	}
	last := len(allowed) - 1
	v.need(slices.Contains(allowed, value), field, strings.Join(allowed[:last], ", ")+" or "+allowed[last])
}

func (v *validator) positive(field *time.Duration) {
	if v.bounds != nil {
		v.bounds.positive[v.key(field)] = true
	}
	v.need(*field > 0, field, "a duration above 0")
}

func (v *validator) atLeastOne(field *int) {
	if v.bounds != nil {
		v.bounds.positive[v.key(field)] = true
	}
	v.need(*field >= 1, field, "1 or more")
}

const allowedListen = "host:port, :port or unix:///path.sock, with a port number from 0 to 65535"

func (v *validator) listeners(c *Config) {
	v.need(validListen(c.Listen), &c.Listen, allowedListen)
	v.need(c.Admin.Listen == "" || validListen(c.Admin.Listen), &c.Admin.Listen, allowedListen+`, or "" for none`)
	if field, ok := v.blame(&c.Admin.Listen, &c.Listen); ok && sameAddress(c.Listen, c.Admin.Listen) {
		other := any(&c.Listen)
		if field == other {
			other = &c.Admin.Listen
		}
		v.need(false, field, "a different address than "+v.is(other))
	}
	v.loop(c)
	if field, ok := v.blame(&c.TLS.CertFile, &c.TLS.KeyFile); ok && (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		v.need(false, field, fmt.Sprintf("both %s and %s, or neither", v.key(&c.TLS.CertFile), v.key(&c.TLS.KeyFile)))
	}
}

func (v *validator) upstream(u *Upstream) {
	v.oneOf(&u.Handshake, string(u.Handshake), string(Eager), string(Lazy))
	v.urls(u)
	v.protocol(u)
	v.positive(&u.DialTimeout)
	v.positive(&u.HandshakeTimeout)
	v.atLeastOne(&u.MaxConcurrentDials)
	for _, name := range u.DropCookies {
		v.needItem(token.MatchString(name), &u.DropCookies, name, "names of cookies")
	}
	v.need(u.TLS.ServerName == "" || validHost(u.TLS.ServerName), &u.TLS.ServerName, "a host name")
}

// protocolQuery are the parameters that Engine.IO has in the query.
var protocolQuery = []string{"EIO", "transport", "sid", "t", "b64", "j"}

func (v *validator) protocol(u *Upstream) {
	v.oneOf(&u.Protocol, string(u.Protocol), string(ProtocolV4), string(ProtocolV3), string(ProtocolAuto))
	for _, key := range u.Translate.AuthToQuery {
		v.needItem(key != "" && !slices.Contains(protocolQuery, key), &u.Translate.AuthToQuery, key,
			"keys of the client's auth option, such as token, except for Engine.IO's own parameters "+strings.Join(protocolQuery, ", "))
	}
	if field, ok := v.blame(&u.Protocol, &u.Translate.AuthToQuery); ok && u.Protocol == ProtocolV4 && len(u.Translate.AuthToQuery) > 0 {
		allowed := fmt.Sprintf("%s or %s because of %s", ProtocolV3, ProtocolAuto, v.key(&u.Translate.AuthToQuery))
		if field == any(&u.Translate.AuthToQuery) {
			allowed = "[] because of " + v.is(&u.Protocol)
		}
		v.need(false, field, allowed)
	}
}

func (v *validator) engineIO(e *EngineIO) {
	v.need(len(e.Paths) > 0, &e.Paths, "at least one path, such as /socket.io/")
	for i, p := range e.Paths {
		v.needItem(ValidPath(p), &e.Paths, p, "a path such as /socket.io/, with a leading slash and without . or .. segments, escapes or spaces")
		for _, other := range e.Paths[:i] {
			a, b := strings.TrimSuffix(p, "/")+"/", strings.TrimSuffix(other, "/")+"/"
			v.needItem(!strings.HasPrefix(a, b) && !strings.HasPrefix(b, a), &e.Paths, p,
				fmt.Sprintf("distinct paths, none inside another (%s is configured, too)", other))
		}
	}
	for _, field := range []*time.Duration{&e.PingInterval, &e.PingTimeout} {
		v.need(*field == 0 || MinPing <= *field && *field <= MaxPing, field,
			fmt.Sprintf("0 to use the upstream's, or %v to %v", formatDuration(MinPing), formatDuration(MaxPing)))
	}
	v.need(e.MaxPayload == 0 || MinMaxPayload <= e.MaxPayload && e.MaxPayload <= MaxMaxPayload, &e.MaxPayload,
		fmt.Sprintf("0 to use the upstream's, or %v to %v", MinMaxPayload, MaxMaxPayload))
	v.positive(&e.UpgradeTimeout)
}

func (v *validator) recovery(r *Recovery) {
	v.need(r.MaxDisconnectionDuration >= 0, &r.MaxDisconnectionDuration, "0 (no recovery) or more")
	v.need(r.GoingAwayDuration >= 0, &r.GoingAwayDuration, "0 or more")
	v.need(r.MaxParkedSessions >= 1, &r.MaxParkedSessions,
		fmt.Sprintf("1 or more; to turn recovery off, set %s to 0", v.key(&r.MaxDisconnectionDuration)))
	v.oneOf(&r.AckEvents, string(r.AckEvents), string(AtMostOnce), string(AtLeastOnce))
	v.oneOf(&r.OnClientDisconnect, string(r.OnClientDisconnect), string(CloseSession), string(ParkSession))
	v.keyed(&r.Keyed)
	v.bind(&r.Bind)
	v.clients(&r.Clients)
	v.namespaces(&r.Namespaces, r)

	b := &r.Buffer
	v.atLeastOne(&b.MaxPackets)
	v.need(b.Window >= MinWindow, &b.Window, fmt.Sprintf("%v or more", MinWindow))
	if field, ok := v.blame(&b.MaxBytes, &b.Window); ok && b.MaxBytes <= b.Window {
		allowed := "more than " + v.is(&b.Window)
		if field == any(&b.Window) {
			allowed = "less than " + v.is(&b.MaxBytes)
		}
		v.need(false, field, allowed)
	}
	if field, ok := v.blame(&b.TotalBytes, &b.Window); ok && b.TotalBytes != 0 && b.TotalBytes < b.Window {
		allowed := "0 for automatic, or at least " + v.is(&b.Window)
		if field == any(&b.Window) {
			allowed = "at most " + v.is(&b.TotalBytes)
		}
		v.need(false, field, allowed)
	}
}

// token matches the names of headers and cookies.
var token = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

// perConnection are headers that describe one connection or request instead of
// a client, or that holdfast does not forward.
var perConnection = []string{
	"Accept-Encoding", "Connection", "Content-Length", "Content-Type", "Expect", "Keep-Alive", "Proxy-Authenticate",
	"Proxy-Authorization", "Proxy-Connection", "Sec-Websocket-Accept", "Sec-Websocket-Extensions", "Sec-Websocket-Key",
	"Sec-Websocket-Version", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

func (v *validator) bind(b *Bind) {
	for _, name := range b.Headers {
		v.needItem(token.MatchString(name) && !slices.Contains(perConnection, textproto.CanonicalMIMEHeaderKey(name)), &b.Headers, name,
			"names of headers that identify the client, such as Authorization, but not of a connection's headers, such as Upgrade")
	}
	for _, name := range b.Cookies {
		v.needItem(token.MatchString(name), &b.Cookies, name, "names of cookies, without their values")
	}
	for _, key := range b.Auth {
		v.needItem(key != "", &b.Auth, key, "keys of the auth object, such as token")
	}
}

// queryName matches parameter names that need no escaping. The names of
// Engine.IO's own parameters are reserved.
var queryName = regexp.MustCompile(`^[A-Za-z0-9_.~-]+$`)

var engineIOQuery = []string{"EIO", "transport", "sid", "t", "j", "b64"}

const allowedQuery = "a query parameter's name, of letters, digits and _ . ~ -, other than "

func validQuery(name string) bool {
	return queryName.MatchString(name) && !slices.Contains(engineIOQuery, name)
}

func (v *validator) keyed(k *Keyed) {
	others := strings.Join(engineIOQuery, ", ")
	v.need(k.Query == "" || validQuery(k.Query), &k.Query, `"" for no keyed recovery, or `+allowedQuery+others)
	v.need(validQuery(k.CountQuery), &k.CountQuery, allowedQuery+others)
	if field, ok := v.blame(&k.CountQuery, &k.Query); ok && k.CountQuery == k.Query && k.Query != "" {
		other := any(&k.Query)
		if field == other {
			other = &k.CountQuery
		}
		v.need(false, field, "another parameter than "+v.is(other))
	}
	v.oneOf(&k.Redeliver, string(k.Redeliver), string(AtLeastOnce), string(AtMostOnce))
}

func (v *validator) clients(c *Clients) {
	v.oneOf(&c.Mode, string(c.Mode), string(AutoClients), string(AllClients), string(OptIn), string(OptOut))
	v.need(c.Query == "" || validQuery(c.Query), &c.Query, allowedQuery+strings.Join(engineIOQuery, ", "))
	_, err := regexp.Compile(c.UserAgent)
	v.need(err == nil, &c.UserAgent, fmt.Sprintf("a regular expression in Go's syntax (%v)", err))
	switch c.Mode {
	case OptIn, OptOut:
		v.need(c.Query != "" || c.UserAgent != "", &c.Mode,
			fmt.Sprintf("this mode only together with %s or %s, which select clients", v.key(&c.Query), v.key(&c.UserAgent)))
	case AutoClients, AllClients:
		allowed := fmt.Sprintf(`"" while %s is %s, which selects clients by itself; to select some, set it to %s or %s`,
			v.key(&c.Mode), c.Mode, OptIn, OptOut)
		v.need(c.Query == "", &c.Query, allowed)
		v.need(c.UserAgent == "", &c.UserAgent, allowed)
	}
}

func (v *validator) namespaces(n *Namespaces, r *Recovery) {
	off := fmt.Sprintf("; to turn recovery off, set %s to 0", v.key(&r.MaxDisconnectionDuration))
	v.need(len(n.Include) > 0, &n.Include, `at least one pattern, such as "*" for all namespaces`+off)
	for _, list := range []*[]string{&n.Include, &n.Exclude} {
		for _, text := range *list {
			problem := checkNamespacePattern(text)
			v.needItem(problem == "", list, text, problem)
		}
	}
	for _, text := range n.Exclude {
		v.needItem(text != "*" && text != "/*", &n.Exclude, text, "patterns that do not exclude every namespace"+off)
	}
}

func (v *validator) limits(l *Limits) {
	v.need(l.MaxConnections >= 0, &l.MaxConnections, "0 for no limit, or a positive number")
	v.need(MinHeader <= l.HeaderBytes && l.HeaderBytes <= MaxHeader, &l.HeaderBytes,
		fmt.Sprintf("%v to %v", MinHeader, MaxHeader))
	for _, n := range []*int{
		&l.MaxConnectionsPerAddress, &l.HandshakesPerSecondPerAddress, &l.FailedResumesPerSecondPerAddress,
		&l.TakeoversPerMinutePerSession,
	} {
		v.need(*n >= 0, n, "0 for no limit, or a positive number")
	}
	v.positive(&l.ReadHeaderTimeout)
	v.positive(&l.BodyTimeout)
	v.positive(&l.IdleTimeout)
	v.atLeastOne(&l.MaxNamespacesPerConnection)
}

func (v *validator) handover(h *Handover) {
	v.oneOf(&h.Mode, string(h.Mode), string(HandoverOff), string(HandoverExec), string(HandoverSystemd))
	v.positive(&h.Leave)
	if field, ok := v.blame(&h.Timeout, &h.Leave); ok && h.Timeout <= h.Leave {
		allowed := "more than " + v.is(&h.Leave)
		if field == any(&h.Leave) {
			allowed = "less than " + v.is(&h.Timeout)
		}
		v.need(false, field, allowed)
	}
}

// maxUnixPath is the longest path of a Unix socket that Linux accepts.
const maxUnixPath = 107

func validListen(addr string) bool {
	network, address := SplitListen(addr)
	if network == "unix" {
		return validUnixPath(address)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host != "" && !validHost(host) {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

func validUnixPath(p string) bool {
	return path.IsAbs(p) && !strings.HasSuffix(p, "/") && len(p) <= maxUnixPath
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?$`)

func validHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	// Only digits and dots: a mistyped address.
	return hostName.MatchString(host) && strings.Trim(host, "0123456789.") != ""
}

// ValidPath reports whether p can appear in a request without escaping.
func ValidPath(p string) bool {
	return strings.HasPrefix(p, "/") && (p == "/" || path.Clean(p) == strings.TrimSuffix(p, "/")) &&
		(&url.URL{Path: p}).EscapedPath() == p
}

// sameAddress reports whether two listeners would conflict.
func sameAddress(a, b string) bool {
	networkA, addressA := SplitListen(a)
	networkB, addressB := SplitListen(b)
	if networkA != networkB || networkA == "unix" {
		return networkA == networkB && addressA == addressB
	}
	hostA, portA, errA := net.SplitHostPort(addressA)
	hostB, portB, errB := net.SplitHostPort(addressB)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	return hostA == hostB || unspecified(hostA) || unspecified(hostB)
}

func unspecified(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "" || err == nil && addr.IsUnspecified()
}

// checkURL returns "" for a valid URL, and otherwise what is allowed.
func checkURL(text string) (allowed string) {
	const forms = "http://host:port, https://host:port or unix:///path.sock"
	u, err := url.Parse(text)
	if err != nil {
		return forms
	}
	switch u.Scheme {
	case "unix":
		if u.Host != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || !validUnixPath(u.Path) {
			return fmt.Sprintf("unix:// and an absolute path of at most %d bytes, such as unix:///run/app.sock", maxUnixPath)
		}
		return ""
	case "http", "https":
		_, portErr := strconv.ParseUint(u.Port(), 10, 16)
		switch {
		case !validHost(u.Hostname()), u.Port() == "0", u.Port() != "" && portErr != nil, u.Port() == "" && strings.HasSuffix(u.Host, ":"):
			return forms
		case u.User != nil:
			return "a URL without a user name and password"
		case u.Path != "" && u.Path != "/", u.RawQuery != "", u.ForceQuery, u.Fragment != "":
			return "a URL without a path, query or fragment: requests keep their own"
		}
		return ""
	}
	return forms
}

// redacted hides a password in a URL, even if the URL is malformed.
func redacted(text string) string {
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		scheme := ""
		if j := strings.Index(text, "://"); j >= 0 && j < i {
			scheme = text[:j+3]
		}
		return scheme + "xxxxx" + text[i:]
	}
	return text
}

// parsePrefix parses an IP address or a CIDR prefix. If text is neither, allowed
// says what is.
func parsePrefix(text string) (prefix netip.Prefix, allowed string) {
	const forms = "IP addresses and CIDR prefixes, such as 10.0.0.0/8 or 2001:db8::1"
	if addr, err := netip.ParseAddr(text); err == nil {
		addr = addr.Unmap()
		if addr.Zone() != "" {
			return netip.Prefix{}, forms + ", without a zone"
		}
		return netip.PrefixFrom(addr, addr.BitLen()), ""
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil || prefix.Addr().Is4In6() {
		return netip.Prefix{}, forms
	}
	if prefix != prefix.Masked() {
		return netip.Prefix{}, fmt.Sprintf("a prefix without host bits: %v, or the single address %v?", prefix.Masked(), prefix.Addr())
	}
	return prefix, ""
}
