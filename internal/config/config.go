package config

import "time"

// ClientMode says which clients get recovery.
type ClientMode string

// The client modes. What opts a client in or out is in Clients.
const (
	AutoClients ClientMode = "auto" // all but those known to be unable to resume
	AllClients  ClientMode = "all"
	OptIn       ClientMode = "opt-in"
	OptOut      ClientMode = "opt-out" // like AutoClients, without those selected
)

// Handshake says when a client's Engine.IO handshake is repeated upstream.
type Handshake string

// The choices for Handshake.
const (
	Eager Handshake = "eager" // before it is answered
	Lazy  Handshake = "lazy"  // when the client needs a connection to the upstream
)

// Discovery says how many servers one URL of the upstream stands for.
type Discovery string

// The choices for Discovery.
const (
	NoDiscovery  Discovery = "none" // one
	DNSDiscovery Discovery = "dns"  // one for each address of its host name
)

// Protocol says which version of Engine.IO the upstream speaks.
type Protocol string

// The choices for Protocol.
const (
	ProtocolV4   Protocol = "4"    // socket.io 3 and 4
	ProtocolV3   Protocol = "3"    // socket.io 1 and 2: holdfast translates
	ProtocolAuto Protocol = "auto" // asked when the first client comes
)

// AckEvents says what happens to an event that asks for an ack if the
// connection ended after it was written and before the client answered.
type AckEvents string

// The choices for AckEvents.
const (
	AtMostOnce  AckEvents = "at-most-once"  // never sent again: it may be lost
	AtLeastOnce AckEvents = "at-least-once" // sent again: handlers may run twice
)

// ClientDisconnect says what happens to a session whose client sends a
// Socket.IO DISCONNECT.
type ClientDisconnect string

// The choices for ClientDisconnect.
const (
	CloseSession ClientDisconnect = "close" // it ends, and the server is told
	ParkSession  ClientDisconnect = "park"  // it waits for its client, as after a lost connection
)

// Limits that Validate enforces and other packages may rely on.
const (
	MinWindow     = 64 * KiB
	MinPing       = 100 * time.Millisecond
	MaxPing       = 24 * time.Hour
	MinMaxPayload = 1 * KiB
	MaxMaxPayload = 1 * GiB
	MinHeader     = 4 * KiB
	MaxHeader     = 16 * MiB

	// DefaultMaxPayload is the default of Socket.IO servers. Where neither the
	// configuration nor the upstream's handshake sets a maximum, a message may
	// have at least as much.
	DefaultMaxPayload = 1 * MB
)

// Config holds all settings. Default returns their initial values; a zero
// Config is not valid. Fields tagged reload:"live" can change while holdfast
// runs, see Reload.
type Config struct {
	// Listen is the address for clients: host:port, :port or
	// unix:///path.sock. Default 0.0.0.0:8080. See SplitListen.
	Listen       string       `yaml:"listen"`
	Upstream     Upstream     `yaml:"upstream"`
	TLS          TLS          `yaml:"tls"`
	EngineIO     EngineIO     `yaml:"engineio"`
	Recovery     Recovery     `yaml:"recovery"`
	Events       Events       `yaml:"events"`
	Notify       Notify       `yaml:"notify"`
	ClientBundle ClientBundle `yaml:"client_bundle"`
	Cluster      Cluster      `yaml:"cluster"`
	Limits       Limits       `yaml:"limits"`
	// TrustedProxies are IP addresses and CIDR prefixes of peers whose
	// X-Forwarded- headers are trusted. Default none. See TrustedPrefixes.
	TrustedProxies []string `yaml:"trusted_proxies" reload:"live"`
	// EventLoop lets an event loop with epoll and raw system calls serve connections without TLS,
	// on Linux. With false, goroutines and the standard library serve all connections. Default
	// true.
	EventLoop bool     `yaml:"event_loop"`
	Shutdown  Shutdown `yaml:"shutdown"`
	Handover  Handover `yaml:"handover"`
	Admin     Admin    `yaml:"admin"`
	Log       Log      `yaml:"log"`
}

// Upstream is the Socket.IO server behind holdfast, or several of them.
type Upstream struct {
	// URL has one URL for each server: http://host:port, https://host:port or
	// unix:///path.sock, without path, query or credentials. Default
	// http://127.0.0.1:3000. See SplitURL.
	URL URLs `yaml:"url" reload:"live"`
	// Discover says how many servers a URL stands for. Default NoDiscovery.
	Discover Discovery `yaml:"discover"`
	// DNSServer is host:port of the DNS server that Discover asks. Default "", the
	// system's.
	DNSServer string `yaml:"dns_server"`
	// DialTimeout bounds one connection attempt, TLS included. Default 5s.
	DialTimeout time.Duration `yaml:"dial_timeout"`
	// HandshakeTimeout bounds a whole Engine.IO handshake with the upstream,
	// including the wait for a dial slot. Default 10s.
	HandshakeTimeout time.Duration `yaml:"handshake_timeout"`
	// MaxConcurrentDials bounds the concurrent handshakes with the upstream;
	// others wait. Default 256.
	MaxConcurrentDials int `yaml:"max_concurrent_dials"`
	// Handshake says when a client's handshake is repeated upstream. Default Eager.
	Handshake Handshake `yaml:"handshake"`
	// DropCookies are names of cookies that are removed from handshakes with the upstream. Default
	// io: a server that takes the Engine.IO session's id from it would confuse a returning client
	// with its parked session.
	DropCookies []string `yaml:"drop_cookies" reload:"live"`
	// Protocol is the version of Engine.IO that the servers speak. Clients of
	// version 4 need a translation in front of one of version 3. Default
	// ProtocolV4.
	Protocol  Protocol       `yaml:"protocol"`
	Translate Translate      `yaml:"translate"`
	Health    UpstreamHealth `yaml:"health"`
	TLS       UpstreamTLS    `yaml:"tls"`
}

// Translate applies if the servers speak version 3.
type Translate struct {
	// AuthToQuery are keys of the auth object in the Socket.IO CONNECT packet,
	// which servers of version 3 cannot read. Their values become parameters of
	// the query. Default none.
	AuthToQuery []string `yaml:"auth_to_query"`
}

// UpstreamHealth configures periodic health checks of each server. After two failures a server gets
// no new connections until a check succeeds. Existing connections stay.
type UpstreamHealth struct {
	// Path is requested with GET; a good answer has status 200 to 399. Default "":
	// no requests.
	Path string `yaml:"path"`
	// Interval is the time between two requests. Default 5s.
	Interval time.Duration `yaml:"interval"`
	// Timeout bounds one request. Default 2s.
	Timeout time.Duration `yaml:"timeout"`
}

// UpstreamTLS applies to the servers of Upstream.URL that are https.
type UpstreamTLS struct {
	// CAFile is a PEM file of certificate authorities to trust instead of the
	// system's. Default "", the system's.
	CAFile string `yaml:"ca_file"`
	// ServerName is the name expected in the upstream's certificate. Default
	// "", the host of its URL.
	ServerName string `yaml:"server_name"`
	// InsecureSkipVerify accepts any certificate. Default false.
	InsecureSkipVerify bool `yaml:"insecure_skip_verify"`
}

// TLS is the listener's certificate: both files, or neither for plain HTTP.
type TLS struct {
	CertFile string `yaml:"cert_file"` // PEM, leaf first. Default "".
	KeyFile  string `yaml:"key_file"`  // PEM. Default "".
}

// EngineIO is the transport protocol towards clients.
type EngineIO struct {
	// Paths are the server's Engine.IO paths, none inside another. A trailing
	// slash makes no difference. Default /socket.io/.
	Paths []string `yaml:"paths"`
	// PingInterval is the time between two heartbeats to a client. 0, the
	// default, uses the upstream's.
	PingInterval time.Duration `yaml:"ping_interval" reload:"live"`
	// PingTimeout is how long a client may take to answer one. 0, the default,
	// uses the upstream's.
	PingTimeout time.Duration `yaml:"ping_timeout" reload:"live"`
	// MaxPayload bounds one message or polling body from a client, in bytes. 0, the default, uses
	// the upstream's limit. Without one, the limit is a quarter of the memory budget.
	MaxPayload Size `yaml:"max_payload" reload:"live"`
	// UpgradeTimeout bounds the upgrade from polling to WebSocket. Default 10s.
	UpgradeTimeout time.Duration `yaml:"upgrade_timeout" reload:"live"`
}

// Recovery is connection state recovery itself.
type Recovery struct {
	// MaxDisconnectionDuration is how long a session stays parked. Default 2m;
	// 0 turns recovery off.
	MaxDisconnectionDuration time.Duration `yaml:"max_disconnection_duration" reload:"live"`
	// GoingAwayDuration replaces it, if shorter, when the user leaves the page
	// (WebSocket close code 1001). Default 10s; 0 closes the session immediately.
	GoingAwayDuration time.Duration `yaml:"going_away_duration" reload:"live"`
	// MaxParkedSessions bounds the parked sessions; the one parked longest is
	// evicted. Default 10000.
	MaxParkedSessions int `yaml:"max_parked_sessions" reload:"live"`
	// AckEvents applies to events in flight that ask for an ack. Default
	// AtMostOnce.
	AckEvents AckEvents `yaml:"ack_events" reload:"live"`
	// OnClientDisconnect applies when a client sends a DISCONNECT. Default CloseSession.
	OnClientDisconnect ClientDisconnect `yaml:"on_client_disconnect" reload:"live"`

	Keyed      Keyed      `yaml:"keyed"`
	Bind       Bind       `yaml:"bind"`
	Clients    Clients    `yaml:"clients"`
	Namespaces Namespaces `yaml:"namespaces"`
	Buffer     Buffer     `yaml:"buffer"`
}

// Keyed is recovery for clients without support for it, by a key in their URL that stays the same
// over their reconnections.
type Keyed struct {
	// Query is the name of the query parameter with the key. Default "", which turns
	// keyed recovery off.
	Query string `yaml:"query" reload:"live"`
	// CountQuery is the name of the query parameter in which a client may tell how
	// many events of each namespace it has handled. Default hf_n.
	CountQuery string `yaml:"count_query" reload:"live"`
	// Redeliver applies to events in flight when the connection ended, if the client
	// does not count. Default AtLeastOnce.
	Redeliver AckEvents `yaml:"redeliver" reload:"live"`
	// Forward passes both parameters on to the upstream. Default false.
	Forward bool `yaml:"forward" reload:"live"`
}

// Bind names what a client must present besides the pid, unchanged since the
// session was opened. What was absent then must still be absent. Default nothing.
type Bind struct {
	// Headers are the names of headers of the Engine.IO handshake request.
	Headers []string `yaml:"headers"`
	// Cookies are the names of cookies of the same request.
	Cookies []string `yaml:"cookies"`
	// Auth are keys of the auth object in the Socket.IO CONNECT packet. Their
	// values may have any type.
	Auth []string `yaml:"auth"`
}

// Clients selects the clients that get recovery. OptIn and OptOut select by
// Query or UserAgent, and at least one of them must be set. With AutoClients and
// AllClients neither may be set. See Filter.
type Clients struct {
	Mode ClientMode `yaml:"mode" reload:"live"` // Default AutoClients.
	// Query is the name of a query parameter of the handshake. It selects the
	// client unless it is absent or its value is 0 or false. Default "".
	Query string `yaml:"query" reload:"live"`
	// UserAgent is a regular expression (RE2). It selects the clients whose
	// User-Agent header it matches. Default "".
	UserAgent string `yaml:"user_agent" reload:"live"`
}

// Namespaces selects the namespaces that get recovery: those that match a
// pattern of Include and none of Exclude. In a pattern, * stands for any text.
// See Filter.
type Namespaces struct {
	Include []string `yaml:"include" reload:"live"` // At least one. Default *, all.
	Exclude []string `yaml:"exclude" reload:"live"` // Default none.
}

// Buffer bounds the packets that are kept for clients.
type Buffer struct {
	// MaxPackets is how many packets a parked session may keep; beyond that it is
	// closed. Default 100000.
	MaxPackets int `yaml:"max_packets" reload:"live"`
	// MaxBytes is the same in bytes. It must be more than Window. Default 16MiB.
	MaxBytes Size `yaml:"max_bytes" reload:"live"`
	// Window is how many unconfirmed bytes a live client may have before holdfast
	// stops reading its link. At least MinWindow. Default 1MiB.
	Window Size `yaml:"window" reload:"live"`
	// TotalBytes is the budget of the whole process. 0, the default, derives it
	// from the available memory; see Budget.
	TotalBytes Size `yaml:"total_bytes"`
}

// Events lists server events that a client may miss while it is away. Each item
// is "EVENT" or "NAMESPACE EVENT", in which * stands for any text. Events that
// ask for an acknowledgement are always kept. See ParseEventPatterns.
type Events struct {
	// Volatile events are dropped. Default none.
	Volatile []string `yaml:"volatile"`
	// Latest events are dropped when a newer one with the same name arrives in
	// their namespace. An event that also matches Volatile is dropped. Default none.
	Latest []string `yaml:"latest"`
	// Join events are sent by clients in their connect handlers. If a client repeats
	// one after a recovery, byte for byte, the server does not get it again. Default
	// none.
	Join []string `yaml:"join"`
}

// Notify names the events that tell the server, on the client's own socket, that
// the client is away or back. Clients cannot send events with these names.
type Notify struct {
	// Parked is sent when a session is parked. Its argument contains reason, one of
	// reason.Parked, and expires_in, in seconds. Default "", none.
	Parked string `yaml:"parked"`
	// Resumed is sent when a session is resumed. Its argument contains away, in
	// seconds, and missed, a number of packets. Default "", none.
	Resumed string `yaml:"resumed"`
}

// ClientBundle is the browser client, for pages that load it from the server.
type ClientBundle struct {
	// Dir is the dist folder of a socket.io-client that supports recovery. It is
	// served under EngineIO.Paths instead of the upstream's. Load checks it.
	// Default "", the upstream's client.
	Dir string `yaml:"dir"`
}

// Limits protects holdfast and the upstream from overload.
type Limits struct {
	// MaxConnections bounds the clients' TCP connections. 0, the default, means
	// no limit.
	MaxConnections int `yaml:"max_connections" reload:"live"`
	// MaxConnectionsPerAddress bounds those of one client address; trusted
	// proxies are not counted. 0, the default, means no limit.
	MaxConnectionsPerAddress int `yaml:"max_connections_per_address" reload:"live"`
	// HandshakesPerSecondPerAddress bounds the rate of handshakes from one client
	// address. Bursts of ten seconds' worth are allowed. 0, the default, means no
	// limit.
	HandshakesPerSecondPerAddress int `yaml:"handshakes_per_second_per_address" reload:"live"`
	// FailedResumesPerSecondPerAddress bounds the rate of CONNECTs from one client
	// address that present an unknown pid. Bursts of ten seconds' worth are
	// allowed. Beyond that pids are not looked up. Default 100; 0 means no limit.
	FailedResumesPerSecondPerAddress int `yaml:"failed_resumes_per_second_per_address" reload:"live"`
	// TakeoversPerMinutePerSession bounds how often one session moves from a live
	// client to a newer one. Bursts of a minute's worth are allowed. Beyond that the
	// newer client is closed after some seconds, and the session stays. Default 30;
	// 0 means no limit.
	TakeoversPerMinutePerSession int `yaml:"takeovers_per_minute_per_session" reload:"live"`
	// HeaderBytes bounds a request's line and headers, in bytes. Default 64KiB.
	HeaderBytes Size `yaml:"header_bytes"`
	// ReadHeaderTimeout bounds the time to read them. Default 10s.
	ReadHeaderTimeout time.Duration `yaml:"read_header_timeout"`
	// BodyTimeout bounds the time to read a POST's body. Each 8 KiB extend it by a second. Default
	// 30s.
	BodyTimeout time.Duration `yaml:"body_timeout" reload:"live"`
	// IdleTimeout closes a keep-alive connection without requests. Default 2m.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	// MaxNamespacesPerConnection bounds the namespaces that one client may
	// connect to. Default 100.
	MaxNamespacesPerConnection int `yaml:"max_namespaces_per_connection" reload:"live"`
}

// Shutdown is the behaviour on SIGTERM.
type Shutdown struct {
	// DrainTimeout is how long existing sessions may continue. Default 30s; 0
	// ends them immediately.
	DrainTimeout time.Duration `yaml:"drain_timeout" reload:"live"`
}

// HandoverMode says how sessions are handed to the next process.
type HandoverMode string

// The choices for HandoverMode.
const (
	HandoverOff     HandoverMode = "off"     // not at all
	HandoverExec    HandoverMode = "exec"    // on SIGUSR2, by a program in the same process
	HandoverSystemd HandoverMode = "systemd" // the same, and on SIGTERM by systemd's store
)

// Handover configures how this process hands its sessions to the next one. It needs Linux.
type Handover struct {
	// Mode says when that is done. Default HandoverExec.
	Mode HandoverMode `yaml:"mode" reload:"live"`
	// Leave is how long clients may take to notice that they are closed. What they
	// send until then is handled. Default 1s.
	Leave time.Duration `yaml:"leave" reload:"live"`
	// Timeout bounds what happens before the next process has the sessions.
	// Default 10s.
	Timeout time.Duration `yaml:"timeout" reload:"live"`
	// Verify lets the next program read the snapshot in a separate process before it takes over.
	// Default true.
	Verify bool `yaml:"verify" reload:"live"`
}

// Admin is the admin listener.
type Admin struct {
	// Listen is like Config.Listen, or "" for no admin listener.
	// Default 127.0.0.1:9090.
	Listen string `yaml:"listen"`
	// Profiling adds the Go runtime's profiles under /debug/pprof/. Default false.
	Profiling bool `yaml:"profiling"`
}

// Log is the process's own log, on standard error.
type Log struct {
	Level  string `yaml:"level" reload:"live"` // debug, info, warn or error. Default info.
	Format string `yaml:"format"`              // text or json. Default text.
}

// Default returns the configuration that applies if nothing is set. The caller
// owns its slices.
func Default() Config {
	return Config{
		Listen: "0.0.0.0:8080",
		Upstream: Upstream{
			URL:                URLs{"http://127.0.0.1:3000"},
			Discover:           NoDiscovery,
			DialTimeout:        5 * time.Second,
			HandshakeTimeout:   10 * time.Second,
			MaxConcurrentDials: 256,
			Handshake:          Eager,
			Protocol:           ProtocolV4,
			DropCookies:        []string{"io"},
			Translate:          Translate{AuthToQuery: []string{}},
			Health:             UpstreamHealth{Interval: 5 * time.Second, Timeout: 2 * time.Second},
		},
		EngineIO: EngineIO{
			Paths:          []string{"/socket.io/"},
			UpgradeTimeout: 10 * time.Second,
		},
		Recovery: Recovery{
			MaxDisconnectionDuration: 2 * time.Minute,
			GoingAwayDuration:        10 * time.Second,
			MaxParkedSessions:        10000,
			AckEvents:                AtMostOnce,
			OnClientDisconnect:       CloseSession,
			Keyed:                    Keyed{CountQuery: "hf_n", Redeliver: AtLeastOnce},
			Bind:                     Bind{Headers: []string{}, Cookies: []string{}, Auth: []string{}},
			Clients:                  Clients{Mode: AutoClients},
			Namespaces:               Namespaces{Include: []string{"*"}, Exclude: []string{}},
			Buffer: Buffer{
				MaxPackets: 100000,
				MaxBytes:   16 * MiB,
				Window:     1 * MiB,
			},
		},
		Events:  Events{Volatile: []string{}, Latest: []string{}, Join: []string{}},
		Cluster: Cluster{Peers: []string{}, Name: "holdfast"},
		Limits: Limits{
			FailedResumesPerSecondPerAddress: 100,
			TakeoversPerMinutePerSession:     30,
			BodyTimeout:                      30 * time.Second,
			HeaderBytes:                      64 * KiB,
			ReadHeaderTimeout:                10 * time.Second,
			IdleTimeout:                      2 * time.Minute,
			MaxNamespacesPerConnection:       100,
		},
		TrustedProxies: []string{},
		EventLoop:      true,
		Shutdown:       Shutdown{DrainTimeout: 30 * time.Second},
		Handover:       Handover{Mode: HandoverExec, Leave: time.Second, Timeout: 10 * time.Second, Verify: true},
		Admin:          Admin{Listen: "127.0.0.1:9090"},
		Log:            Log{Level: "info", Format: "text"},
	}
}
