package config

import (
	"strings"
	"testing"
	"time"
)

func TestValidate(t *testing.T) {
	long := "/" + strings.Repeat("x", maxUnixPath)
	tests := []struct {
		name   string
		change func(c *Config)
		want   []string // all problems; each contains this
	}{
		{"listen on a port", func(c *Config) { c.Listen = ":8080" }, nil},
		{"listen on IPv6", func(c *Config) { c.Listen = "[::1]:8080" }, nil},
		{"listen on a name", func(c *Config) { c.Listen = "localhost:8080" }, nil},
		{"listen on any port", func(c *Config) { c.Listen = "127.0.0.1:0" }, nil},
		{"listen on a socket", func(c *Config) { c.Listen = "unix:///run/holdfast.sock" }, nil},
		{"no listen", func(c *Config) { c.Listen = "" }, []string{`listen: found "" (the default); allowed: host:port`}},
		{"listen without port", func(c *Config) { c.Listen = "8080" }, []string{`listen: found "8080"`}},
		{"listen with a named port", func(c *Config) { c.Listen = ":http" }, []string{`listen: found ":http"`}},
		{"listen with a large port", func(c *Config) { c.Listen = ":65536" }, []string{`listen: found ":65536"`}},
		{"listen on a bad address", func(c *Config) { c.Listen = "127.0.0.256:80" }, []string{`listen: found "127.0.0.256:80"`}},
		{"listen on a URL", func(c *Config) { c.Listen = "http://localhost:80" }, []string{`listen: found "http://localhost:80"`}},
		{"listen on a relative socket", func(c *Config) { c.Listen = "unix://a.sock" }, []string{`listen: found "unix://a.sock"`}},
		{"listen on a long socket", func(c *Config) { c.Listen = "unix://" + long }, []string{`listen: found "unix:///xxx`}},
		{"no admin", func(c *Config) { c.Admin.Listen = "" }, nil},
		{"bad admin", func(c *Config) { c.Admin.Listen = "9090" }, []string{`admin.listen: found "9090" (the default); allowed: host:port, :port or unix:///path.sock, with a port number from 0 to 65535, or "" for none`}},
		{"admin and clients on one port", func(c *Config) { c.Admin.Listen = "127.0.0.1:8080" }, []string{`admin.listen: found "127.0.0.1:8080" (the default); allowed: a different address than listen (0.0.0.0:8080)`}},
		{"the upstream is the listener", func(c *Config) { c.Upstream.URL = URLs{"http://localhost:8080"} }, []string{`upstream.url: found "http://localhost:8080" (the default); allowed: the server's address, which is a different one than listen (0.0.0.0:8080)`}},
		{"admin and clients on one socket", func(c *Config) { c.Listen = "unix:///a"; c.Admin.Listen = "unix:///a" }, []string{`admin.listen: found "unix:///a"`}},
		{"one port of two addresses", func(c *Config) { c.Listen = "127.0.0.1:80"; c.Admin.Listen = "127.0.0.2:80" }, nil},
		{"any ports", func(c *Config) { c.Listen = ":0"; c.Admin.Listen = ":0" }, nil},
		{"certificate without key", func(c *Config) { c.TLS.CertFile = "a" }, []string{`tls.cert_file: found "a"`}},

		{"https upstream", func(c *Config) { c.Upstream.URL = URLs{"https://app.internal"} }, nil},
		{"upstream with a slash", func(c *Config) { c.Upstream.URL = URLs{"http://app.internal:3000/"} }, nil},
		{"IPv6 upstream", func(c *Config) { c.Upstream.URL = URLs{"http://[::1]:3000"} }, nil},
		{"Docker's host names", func(c *Config) { c.Upstream.URL = URLs{"http://my_app-1:3000"} }, nil},
		{"unix upstream", func(c *Config) { c.Upstream.URL = URLs{"unix:///run/app.sock"} }, nil},
		{"several upstreams", func(c *Config) { c.Upstream.URL = URLs{"http://a:1", "https://b", "unix:///run/app.sock"} }, nil},
		{"an empty list of upstreams", func(c *Config) { c.Upstream.URL = URLs{} }, []string{`upstream.url: found "" (the default); allowed: at least one URL, such as http://127.0.0.1:3000`}},
		{"a bad one of several", func(c *Config) { c.Upstream.URL = URLs{"http://a:1", "http://u:p@b", "c"} }, []string{
			`upstream.url: found "http://xxxxx@b" (the default); allowed: a URL without a user name and password`,
			`upstream.url: found "c" (the default); allowed: http://host:port`,
		}},
		{"an upstream twice", func(c *Config) { c.Upstream.URL = URLs{"http://a", "http://b", "http://A:80/"} }, []string{`upstream.url: found "http://A:80/" (the default); allowed: each server once`}},
		{"discovery", func(c *Config) {
			c.Upstream.URL, c.Upstream.Discover = URLs{"http://10.0.0.1", "http://a"}, DNSDiscovery
		}, nil},
		{"unknown discovery", func(c *Config) { c.Upstream.Discover = "consul" }, []string{`upstream.discover: found "consul" (the default); allowed: none or dns`}},
		{"discovery without a name", func(c *Config) { c.Upstream.Discover = DNSDiscovery }, []string{
			`upstream.url: found "http://127.0.0.1:3000" (the default); allowed: a URL with a host name, because upstream.discover (dns) looks it up`,
		}},
		{"a DNS server", func(c *Config) {
			c.Upstream.URL, c.Upstream.Discover, c.Upstream.DNSServer = URLs{"http://a"}, DNSDiscovery, "[::1]:53"
		}, nil},
		{"a DNS server without a port", func(c *Config) {
			c.Upstream.URL, c.Upstream.Discover, c.Upstream.DNSServer = URLs{"http://a"}, DNSDiscovery, "10.0.0.53"
		}, []string{`upstream.dns_server: found "10.0.0.53" (the default); allowed: an IP address and a port, such as 127.0.0.1:8600`}},
		{"a DNS server without discovery", func(c *Config) { c.Upstream.DNSServer = "10.0.0.53:53" }, []string{`upstream.dns_server: found "10.0.0.53:53" (the default); allowed: "" unless upstream.discover is dns`}},
		{"health checks", func(c *Config) { c.Upstream.Health.Path = "/healthz?deep=1" }, nil},
		{"health checks of no path", func(c *Config) { c.Upstream.Health.Path = "healthz" }, []string{`upstream.health.path: found "healthz" (the default); allowed: a path with a leading slash, such as /healthz, or "" for no health checks`}},
		{"health checks of a URL", func(c *Config) { c.Upstream.Health.Path = "//a/healthz" }, []string{`upstream.health.path: `}},
		{"health checks with a space", func(c *Config) { c.Upstream.Health.Path = "/a b" }, []string{`upstream.health.path: `}},
		{"health checks without a pause", func(c *Config) { c.Upstream.Health.Interval = 0 }, []string{`upstream.health.interval: found "0" (the default); allowed: a duration above 0`}},
		{"health checks without time", func(c *Config) { c.Upstream.Health.Timeout = -1 }, []string{`upstream.health.timeout: `}},
		{"no upstream", func(c *Config) { c.Upstream.URL = URLs{""} }, []string{`upstream.url: found "" (the default); allowed: http://host:port`}},
		{"upstream without scheme", func(c *Config) { c.Upstream.URL = URLs{"127.0.0.1:3000"} }, []string{`upstream.url: found "127.0.0.1:3000" (the default); allowed: http://host:port, https://host:port or unix:///path.sock`}},
		{"upstream of another scheme", func(c *Config) { c.Upstream.URL = URLs{"ws://a:3000"} }, []string{`upstream.url: found "ws://a:3000"`}},
		{"upstream with a path", func(c *Config) { c.Upstream.URL = URLs{"http://a:1/socket.io/"} }, []string{"allowed: a URL without a path"}},
		{"upstream with a query", func(c *Config) { c.Upstream.URL = URLs{"http://a:1?x"} }, []string{"allowed: a URL without a path"}},
		{"upstream with port 0", func(c *Config) { c.Upstream.URL = URLs{"http://a:0"} }, []string{`found "http://a:0"`}},
		{"upstream with a large port", func(c *Config) { c.Upstream.URL = URLs{"http://a:70000"} }, []string{`found "http://a:70000"`}},
		{"upstream with an empty port", func(c *Config) { c.Upstream.URL = URLs{"http://a:"} }, []string{`found "http://a:"`}},
		{"upstream without host", func(c *Config) { c.Upstream.URL = URLs{"http://:3000"} }, []string{`found "http://:3000"`}},
		{"a password is not repeated", func(c *Config) { c.Upstream.URL = URLs{"http://user:secret@a:1"} }, []string{`upstream.url: found "http://xxxxx@a:1" (the default); allowed: a URL without a user name and password`}},
		{"nor one in a broken URL", func(c *Config) { c.Upstream.URL = URLs{"http://user:se%cret@a:1"} }, []string{`upstream.url: found "http://xxxxx@a:1"`}},
		{"unix upstream without path", func(c *Config) { c.Upstream.URL = URLs{"unix://"} }, []string{"allowed: unix:// and an absolute path"}},
		{"unix upstream with host", func(c *Config) { c.Upstream.URL = URLs{"unix://run/app.sock"} }, []string{"allowed: unix:// and an absolute path"}},
		{"bad server name", func(c *Config) { c.Upstream.TLS.ServerName = "https://a" }, []string{`upstream.tls.server_name: found "https://a"`}},
		{"no dial timeout", func(c *Config) { c.Upstream.DialTimeout = 0 }, []string{`upstream.dial_timeout: found "0" (the default); allowed: a duration above 0`}},
		{"a protocol that is neither", func(c *Config) { c.Upstream.Protocol = "5" }, []string{"upstream.protocol: "}},
		{"a translation without version 3", func(c *Config) { c.Upstream.Translate.AuthToQuery = []string{"token"} }, []string{"upstream.protocol: "}},
		{"a parameter of Engine.IO", func(c *Config) {
			c.Upstream.Protocol, c.Upstream.Translate.AuthToQuery = ProtocolV3, []string{"token", "sid", ""}
		}, []string{"upstream.translate.auth_to_query: ", "upstream.translate.auth_to_query: "}},
		{"no handshake timeout", func(c *Config) { c.Upstream.HandshakeTimeout = 0 }, []string{"upstream.handshake_timeout: "}},
		{"no dials", func(c *Config) { c.Upstream.MaxConcurrentDials = 0 }, []string{`upstream.max_concurrent_dials: found "0" (the default); allowed: 1 or more`}},

		{"several paths", func(c *Config) { c.EngineIO.Paths = []string{"/a/", "/b/c/"} }, nil},
		{"root path", func(c *Config) { c.EngineIO.Paths = []string{"/"} }, nil},
		{"no path", func(c *Config) { c.EngineIO.Paths = nil }, []string{"engineio.paths: "}},
		{"path without end slash", func(c *Config) { c.EngineIO.Paths = []string{"/a", "/ab", "/b/c"} }, nil},
		{"path with two end slashes", func(c *Config) { c.EngineIO.Paths = []string{"/a//"} }, []string{`engineio.paths: found "/a//" (the default); allowed: a path such as /socket.io/, with a leading slash`}},
		{"path twice, without and with end slash", func(c *Config) { c.EngineIO.Paths = []string{"/a", "/a/"} }, []string{`engineio.paths: found "/a/"`}},
		{"path without start slash", func(c *Config) { c.EngineIO.Paths = []string{"a/"} }, []string{`engineio.paths: found "a/"`}},
		{"path with dots", func(c *Config) { c.EngineIO.Paths = []string{"/a/../b/"} }, []string{`engineio.paths: found "/a/../b/"`}},
		{"path with a query", func(c *Config) { c.EngineIO.Paths = []string{"/a?/"} }, []string{`engineio.paths: found "/a?/"`}},
		{"path with a blank", func(c *Config) { c.EngineIO.Paths = []string{"/a b/"} }, []string{`engineio.paths: found "/a b/"`}},
		{"path twice", func(c *Config) { c.EngineIO.Paths = []string{"/a/", "/a/"} }, []string{`engineio.paths: found "/a/" (the default); allowed: distinct paths`}},
		{"path in a path", func(c *Config) { c.EngineIO.Paths = []string{"/a/b/", "/a/"} }, []string{`engineio.paths: found "/a/" (the default); allowed: distinct paths, none inside another (/a/b/ is configured, too)`}},
		{"paths with a common start", func(c *Config) { c.EngineIO.Paths = []string{"/a/", "/ab/"} }, nil},
		{"shortest ping", func(c *Config) { c.EngineIO.PingInterval = MinPing; c.EngineIO.PingTimeout = MinPing }, nil},
		{"ping too short", func(c *Config) { c.EngineIO.PingInterval = MinPing - 1 }, []string{`engineio.ping_interval: found "99.999999ms" (the default); allowed: 0 to use the upstream's, or 100ms to 24h`}},
		{"ping timeout too long", func(c *Config) { c.EngineIO.PingTimeout = MaxPing + 1 }, []string{"engineio.ping_timeout: "}},
		{"payload too small", func(c *Config) { c.EngineIO.MaxPayload = 1023 }, []string{"engineio.max_payload: "}},
		{"payload too large", func(c *Config) { c.EngineIO.MaxPayload = GiB + 1 }, []string{"engineio.max_payload: "}},
		{"no upgrade timeout", func(c *Config) { c.EngineIO.UpgradeTimeout = 0 }, []string{"engineio.upgrade_timeout: "}},

		{"namespaces", func(c *Config) {
			c.Recovery.Namespaces = Namespaces{Include: []string{"/", "/game-*", "*/admin"}, Exclude: []string{"/", "/game-7", "*-strict"}}
		}, nil},
		{"no namespaces", func(c *Config) { c.Recovery.Namespaces.Include = []string{} }, []string{`recovery.namespaces.include: found "" (the default); allowed: at least one pattern, such as "*" for all namespaces; to turn recovery off, set recovery.max_disconnection_duration to 0`}},
		{"namespaces without a slash", func(c *Config) {
			c.Recovery.Namespaces = Namespaces{Include: []string{"/a", "admin"}, Exclude: []string{"b*"}}
		}, []string{
			`recovery.namespaces.include: found "admin" (the default); allowed: a namespace, such as / or /admin, or a pattern, such as /game-* or *; it must begin with a slash: "/admin"`,
			`recovery.namespaces.exclude: found "b*"`,
		}},
		{"namespaces that nothing can have", func(c *Config) { c.Recovery.Namespaces.Exclude = []string{"", "/a ", "/a\x00", "/a,/b"} }, []string{
			`recovery.namespaces.exclude: found ""`,
			`recovery.namespaces.exclude: found "/a "`,
			`recovery.namespaces.exclude: found "/a\x00"`,
			`recovery.namespaces.exclude: found "/a,/b" (the default); allowed: a namespace, such as / or /admin, or a pattern, such as /game-* or *; a namespace cannot contain a comma`,
		}},
		{"all namespaces excluded", func(c *Config) { c.Recovery.Namespaces.Exclude = []string{"/*", "*"} }, []string{
			`recovery.namespaces.exclude: found "/*" (the default); allowed: patterns that do not exclude every namespace; to turn recovery off`,
			`recovery.namespaces.exclude: found "*"`,
		}},
		{"bindings", func(c *Config) {
			c.Recovery.Bind = Bind{Headers: []string{"authorization", "Host"}, Cookies: []string{"session.id"}, Auth: []string{"a key"}}
		}, nil},
		{"binding to no header", func(c *Config) { c.Recovery.Bind.Headers = []string{"Authorization: x"} }, []string{`recovery.bind.headers: found "Authorization: x" (the default); allowed: names of headers`}},
		{"binding to a header of one connection", func(c *Config) { c.Recovery.Bind.Headers = []string{"sec-websocket-key"} }, []string{`recovery.bind.headers: found "sec-websocket-key"`}},
		{"binding to no cookie", func(c *Config) { c.Recovery.Bind.Cookies = []string{"a=b"} }, []string{`recovery.bind.cookies: found "a=b"`}},
		{"binding to no key", func(c *Config) { c.Recovery.Bind.Auth = []string{""} }, []string{`recovery.bind.auth: found ""`}},

		{"recovery turned off", func(c *Config) { c.Recovery.MaxDisconnectionDuration = 0 }, nil},
		{"going away longer than parked", func(c *Config) { c.Recovery.MaxDisconnectionDuration = time.Second }, nil},
		{"negative disconnection", func(c *Config) { c.Recovery.MaxDisconnectionDuration = -1 }, []string{"recovery.max_disconnection_duration: "}},
		{"negative going away", func(c *Config) { c.Recovery.GoingAwayDuration = -1 }, []string{"recovery.going_away_duration: "}},
		{"nothing parked", func(c *Config) { c.Recovery.MaxParkedSessions = 0 }, []string{"allowed: 1 or more; to turn recovery off, set recovery.max_disconnection_duration to 0"}},
		{"at least once", func(c *Config) { c.Recovery.AckEvents = AtLeastOnce }, nil},
		{"unknown ack mode", func(c *Config) { c.Recovery.AckEvents = "always" }, []string{`recovery.ack_events: found "always" (the default); allowed: at-most-once or at-least-once`}},
		{"no cookies to drop", func(c *Config) { c.Upstream.DropCookies = nil }, nil},
		{"a cookie with its value", func(c *Config) { c.Upstream.DropCookies = []string{"io=1"} }, []string{`upstream.drop_cookies: found "io=1" (the default); allowed: names of cookies`}},
		{"a key", func(c *Config) { c.Recovery.Keyed.Query = "hf_key" }, nil},
		{"a key in Engine.IO's own query", func(c *Config) { c.Recovery.Keyed.Query = "t" }, []string{`recovery.keyed.query: found "t" (the default); allowed: "" for no keyed recovery, or a query parameter's name`}},
		{"no parameter to count with", func(c *Config) { c.Recovery.Keyed.CountQuery = "" }, []string{"recovery.keyed.count_query: "}},
		{"key and count alike", func(c *Config) { c.Recovery.Keyed.Query = "hf_n" }, []string{`allowed: another parameter than`}},
		{"unknown redelivery", func(c *Config) { c.Recovery.Keyed.Redeliver = "exactly-once" }, []string{`recovery.keyed.redeliver: found "exactly-once" (the default); allowed: at-least-once or at-most-once`}},
		{"unknown client mode", func(c *Config) { c.Recovery.Clients.Mode = "some" }, []string{"allowed: auto, all, opt-in or opt-out"}},
		{"opt in by query", func(c *Config) { c.Recovery.Clients = Clients{Mode: OptIn, Query: "r"} }, nil},
		{"opt out by user agent", func(c *Config) { c.Recovery.Clients = Clients{Mode: OptOut, UserAgent: "^curl/"} }, nil},
		{"opt in by nothing", func(c *Config) { c.Recovery.Clients.Mode = OptIn }, []string{"recovery.clients.mode: found \"opt-in\" (the default); allowed: this mode only together with recovery.clients.query or recovery.clients.user_agent"}},
		{"a choice among all", func(c *Config) { c.Recovery.Clients.Query = "r" }, []string{`recovery.clients.query: found "r" (the default); allowed: "" while recovery.clients.mode is auto`}},
		{"Engine.IO's own query", func(c *Config) { c.Recovery.Clients = Clients{Mode: OptIn, Query: "sid"} }, []string{"recovery.clients.query: "}},
		{"query with escapes", func(c *Config) { c.Recovery.Clients = Clients{Mode: OptIn, Query: "a&b"} }, []string{"recovery.clients.query: "}},
		{"bad expression", func(c *Config) { c.Recovery.Clients = Clients{Mode: OptIn, UserAgent: "("} }, []string{"allowed: a regular expression in Go's syntax (error parsing regexp: missing closing ): `(`)"}},

		{"no packets", func(c *Config) { c.Recovery.Buffer.MaxPackets = 0 }, []string{"recovery.buffer.max_packets: "}},
		{"smallest window", func(c *Config) { c.Recovery.Buffer.Window = MinWindow }, nil},
		{"window too small", func(c *Config) { c.Recovery.Buffer.Window = MinWindow - 1 }, []string{`recovery.buffer.window: found "65535" (the default); allowed: 64KiB or more`}},
		{"window as large as the buffer", func(c *Config) { c.Recovery.Buffer.MaxBytes = MiB }, []string{`recovery.buffer.max_bytes: found "1MiB" (the default); allowed: more than recovery.buffer.window (1MiB)`}},
		{"buffer just larger", func(c *Config) { c.Recovery.Buffer.MaxBytes = MiB + 1 }, nil},
		{"window larger than the budget", func(c *Config) { c.Recovery.Buffer.TotalBytes = MiB - 1 }, []string{"recovery.buffer.total_bytes: "}},
		{"negative budget", func(c *Config) { c.Recovery.Buffer.TotalBytes = -1 }, []string{"recovery.buffer.total_bytes: "}},

		{"negative connections", func(c *Config) { c.Limits.MaxConnections = -1 }, []string{`limits.max_connections: found "-1" (the default); allowed: 0 for no limit, or a positive number`}},
		{"small header", func(c *Config) { c.Limits.HeaderBytes = MinHeader - 1 }, []string{"limits.header_bytes: "}},
		{"huge header", func(c *Config) { c.Limits.HeaderBytes = MaxHeader + 1 }, []string{"limits.header_bytes: "}},
		{"no header timeout", func(c *Config) { c.Limits.ReadHeaderTimeout = 0 }, []string{"limits.read_header_timeout: "}},
		{"no idle timeout", func(c *Config) { c.Limits.IdleTimeout = 0 }, []string{"limits.idle_timeout: "}},
		{"no namespaces", func(c *Config) { c.Limits.MaxNamespacesPerConnection = 0 }, []string{"limits.max_namespaces_per_connection: "}},
		{"proxies", func(c *Config) { c.TrustedProxies = []string{"10.0.0.0/8", "192.168.1.7", "fd00::/8", "::1"} }, nil},
		{"bad proxies", func(c *Config) { c.TrustedProxies = []string{"10.0.0.0/8", "proxy", "10.0.0.0/33"} }, []string{`trusted_proxies: found "proxy"`, `trusted_proxies: found "10.0.0.0/33"`}},
		{"proxy prefix with host bits", func(c *Config) { c.TrustedProxies = []string{"10.1.2.3/8"} }, []string{"a prefix without host bits: 10.0.0.0/8, or the single address 10.1.2.3?"}},
		{"proxy with a zone", func(c *Config) { c.TrustedProxies = []string{"fe80::1%eth0"} }, []string{"without a zone"}},
		{"drain immediately", func(c *Config) { c.Shutdown.DrainTimeout = 0 }, nil},
		{"negative drain", func(c *Config) { c.Shutdown.DrainTimeout = -1 }, []string{"shutdown.drain_timeout: "}},
		{"log level in capitals", func(c *Config) { c.Log.Level = "INFO" }, []string{"allowed: debug, info, warn or error"}},
		{"log format", func(c *Config) { c.Log.Format = "xml" }, []string{"allowed: text or json"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := Default()
			tt.change(&c)
			got := problems(t, c.Validate())
			ok := len(got) == len(tt.want)
			for i := range min(len(got), len(tt.want)) {
				ok = ok && strings.Contains(got[i], tt.want[i])
			}
			if !ok {
				t.Errorf("got  %s\nwant %s", strings.Join(got, "\n     "), strings.Join(tt.want, "\n     "))
			}
		})
	}
}

// If two settings contradict each other and one is a default, the error names the one that was set.
func TestBlame(t *testing.T) {
	tests := []struct {
		name    string
		environ []string
		want    string
	}{
		{"the buffer", []string{"HOLDFAST_RECOVERY_BUFFER_MAX_BYTES=512KiB"}, `HOLDFAST_RECOVERY_BUFFER_MAX_BYTES: recovery.buffer.max_bytes: found "512KiB"; allowed: more than recovery.buffer.window (1MiB)`},
		{"the window", []string{"HOLDFAST_RECOVERY_BUFFER_WINDOW=32MiB"}, `HOLDFAST_RECOVERY_BUFFER_WINDOW: recovery.buffer.window: found "32MiB"; allowed: less than recovery.buffer.max_bytes (16MiB)`},
		{"the budget", []string{"HOLDFAST_RECOVERY_BUFFER_TOTAL_BYTES=64KiB"}, `HOLDFAST_RECOVERY_BUFFER_TOTAL_BYTES: recovery.buffer.total_bytes: found "64KiB"; allowed: 0 for automatic, or at least recovery.buffer.window (1MiB)`},
		{"the server's address as the clients'", []string{"HOLDFAST_LISTEN=:3000"}, `HOLDFAST_LISTEN: listen: found ":3000"; allowed: a different address than upstream.url (http://127.0.0.1:3000)`},
		{"the clients' address as the server's", []string{"HOLDFAST_LISTEN=:81", "HOLDFAST_UPSTREAM_URL=http://127.0.0.1:81"}, `HOLDFAST_UPSTREAM_URL: upstream.url: found "http://127.0.0.1:81"; allowed: the server's address, which is a different one than listen (:81)`},
		{"the clients' address", []string{"HOLDFAST_LISTEN=:9090"}, `HOLDFAST_LISTEN: listen: found ":9090"; allowed: a different address than admin.listen (127.0.0.1:9090)`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := load(t, nil, tt.environ)
			if got := problems(t, err); len(got) != 1 || got[0] != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}
