package config

import "time"

// ClientMode says which clients get recovery.
type ClientMode string

// The client modes. What opts a client in or out is in Clients.
const (
	AllClients ClientMode = "all"
	OptIn      ClientMode = "opt-in"
	OptOut     ClientMode = "opt-out"
)

// Handshake says when a client's Engine.IO handshake is repeated upstream.
type Handshake string

// The choices for Handshake.
const (
	Eager Handshake = "eager" // before it is answered
	Lazy  Handshake = "lazy"  // when the client needs a connection to the upstream
)

// AckEvents says what becomes of an event that asks for an ack, when the
// connection died after it was written and before the client answered.
type AckEvents string

// The choices for AckEvents.
const (
	AtMostOnce  AckEvents = "at-most-once"  // never sent again: may be lost
	AtLeastOnce AckEvents = "at-least-once" // sent again: handlers may run twice
)

// ClientDisconnect says what becomes of a session whose client says goodbye, by a Socket.IO DISCONNECT packet.
type ClientDisconnect string

// The choices for ClientDisconnect.
const (
	CloseSession ClientDisconnect = "close" // it ends, for the server too
	ParkSession  ClientDisconnect = "park"  // it waits for its client, as after a drop
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

	// DefaultMaxPayload is used where neither the configuration nor the
	// upstream's handshake names a maximum.
	DefaultMaxPayload = 1 * MB
)

// Config is everything that can be set. Default gives its initial values; a
// zero Config is not valid. What is tagged reload:"live" can change while
// holdfast runs, see Reload.
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
	Limits       Limits       `yaml:"limits"`
	// TrustedProxies are IP addresses and CIDR prefixes of peers whose
	// X-Forwarded- headers are believed. Default none. See TrustedPrefixes.
	TrustedProxies []string `yaml:"trusted_proxies" reload:"live"`
	Shutdown       Shutdown `yaml:"shutdown"`
	Admin          Admin    `yaml:"admin"`
	Log            Log      `yaml:"log"`
}

// Upstream is the Socket.IO server behind holdfast.
type Upstream struct {
	// URL is http://host:port, https://host:port or unix:///path.sock, without
	// path, query or credentials. Default http://127.0.0.1:3000. See Endpoint.
	URL string `yaml:"url"`
	// DialTimeout bounds one connection attempt, TLS included. Default 5s.
	DialTimeout time.Duration `yaml:"dial_timeout"`
	// HandshakeTimeout bounds a whole Engine.IO handshake with the upstream,
	// from waiting for a dial slot to its answer. Default 10s.
	HandshakeTimeout time.Duration `yaml:"handshake_timeout"`
	// MaxConcurrentDials bounds the handshakes under way at a time; more
	// wait. Default 256.
	MaxConcurrentDials int `yaml:"max_concurrent_dials"`
	// Handshake is when the upstream is asked for a client. Default Eager.
	Handshake Handshake   `yaml:"handshake"`
	TLS       UpstreamTLS `yaml:"tls"`
}

// UpstreamTLS applies where Upstream.URL is https.
type UpstreamTLS struct {
	// CAFile is a PEM file of the authorities to trust instead of the
	// system's. Default "", the system's.
	CAFile string `yaml:"ca_file"`
	// ServerName is the name expected in the upstream's certificate. Default
	// "", the host of the URL.
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
	// Paths are the Engine.IO paths of the server, none inside another. A
	// slash at the end makes no difference. Default /socket.io/.
	Paths []string `yaml:"paths"`
	// PingInterval is the time between two heartbeats to a client. 0, the
	// default, takes the upstream's.
	PingInterval time.Duration `yaml:"ping_interval" reload:"live"`
	// PingTimeout is how long a client may take to answer one. 0, the default,
	// takes the upstream's.
	PingTimeout time.Duration `yaml:"ping_timeout" reload:"live"`
	// MaxPayload bounds one message or polling body from a client, in bytes.
	// 0, the default, takes the upstream's, or DefaultMaxPayload.
	MaxPayload Size `yaml:"max_payload" reload:"live"`
	// UpgradeTimeout bounds the change from polling to WebSocket. Default 10s.
	UpgradeTimeout time.Duration `yaml:"upgrade_timeout" reload:"live"`
}

// Recovery is connection state recovery itself.
type Recovery struct {
	// MaxDisconnectionDuration is how long a session stays parked. Default 2m;
	// 0 turns recovery off.
	MaxDisconnectionDuration time.Duration `yaml:"max_disconnection_duration" reload:"live"`
	// GoingAwayDuration replaces it, where shorter, for a client whose page is
	// going away (WebSocket close code 1001). Default 10s; 0 closes at once.
	GoingAwayDuration time.Duration `yaml:"going_away_duration" reload:"live"`
	// MaxParkedSessions bounds the parked sessions; the one parked longest
	// gives way. Default 10000.
	MaxParkedSessions int `yaml:"max_parked_sessions" reload:"live"`
	// AckEvents is for events with an ack that were in flight. Default
	// AtMostOnce.
	AckEvents AckEvents `yaml:"ack_events" reload:"live"`
	// OnClientDisconnect is for a client that says goodbye. Default CloseSession.
	OnClientDisconnect ClientDisconnect `yaml:"on_client_disconnect" reload:"live"`

	Bind       Bind       `yaml:"bind"`
	Clients    Clients    `yaml:"clients"`
	Namespaces Namespaces `yaml:"namespaces"`
	Buffer     Buffer     `yaml:"buffer"`
}

// Bind names what a client must present, beside the pid, as it was when the session was opened. All that is named
// counts; what was absent must be absent. Default nothing.
type Bind struct {
	// Headers are names of headers of the Engine.IO handshake request.
	Headers []string `yaml:"headers"`
	// Cookies are names of cookies of the same request.
	Cookies []string `yaml:"cookies"`
	// Auth are keys of the Socket.IO CONNECT packet's auth payload; their values may be of any kind.
	Auth []string `yaml:"auth"`
}

// Clients chooses the clients that get recovery. With OptIn or OptOut a client
// is chosen by Query or by UserAgent, of which at least one must be set; with
// AllClients neither may be. See Filter.
type Clients struct {
	Mode ClientMode `yaml:"mode" reload:"live"` // Default AllClients.
	// Query is the name of a query parameter of the handshake. It chooses the
	// client unless it is absent or its value is 0 or false. Default "".
	Query string `yaml:"query" reload:"live"`
	// UserAgent is a regular expression (RE2) that chooses the clients whose
	// User-Agent header it matches. Default "".
	UserAgent string `yaml:"user_agent" reload:"live"`
}

// Namespaces chooses the namespaces that get recovery: those that a pattern of Include matches and none of Exclude. In a
// pattern * stands for any text. See Filter.
type Namespaces struct {
	Include []string `yaml:"include" reload:"live"` // At least one. Default *, all.
	Exclude []string `yaml:"exclude" reload:"live"` // Default none.
}

// Buffer bounds what is kept of the upstream's packets.
type Buffer struct {
	// MaxPackets closes a parked session that has more. Default 100000.
	MaxPackets int `yaml:"max_packets" reload:"live"`
	// MaxBytes closes a parked session that has more bytes. More than Window.
	// Default 16MiB.
	MaxBytes Size `yaml:"max_bytes" reload:"live"`
	// Window is how many bytes may be unconfirmed by a live client before its
	// link is not read any more. At least MinWindow. Default 1MiB.
	Window Size `yaml:"window" reload:"live"`
	// TotalBytes is the budget of the whole process. 0, the default, chooses
	// it from the memory that there is; see Budget.
	TotalBytes Size `yaml:"total_bytes"`
}

// Events says which of the server's events a client need not have that was away when they came. Each item is "EVENT" or
// "NAMESPACE EVENT", in which * stands for any text. Events that ask for an acknowledgement are always kept. See
// ParseEventPatterns.
type Events struct {
	// Volatile events are dropped. Default none.
	Volatile []string `yaml:"volatile"`
	// Latest events are dropped when another one of the same name comes after them in their namespace. What matches
	// Volatile too is dropped. Default none.
	Latest []string `yaml:"latest"`
}

// Notify names the events by which the server is told, on the client's own socket, that the client is away or back. A
// client cannot send events of these names.
type Notify struct {
	// Parked is for a session that was parked. Its argument has reason, one of metrics.ParkingReasons, and expires_in,
	// in seconds. Default "", none.
	Parked string `yaml:"parked"`
	// Resumed is for one that its client has again. Its argument has away, in seconds, and missed, how many packets.
	// Default "", none.
	Resumed string `yaml:"resumed"`
}

// ClientBundle is the browser's client, for pages that load it from the server.
type ClientBundle struct {
	// Dir is the dist folder of a socket.io-client that can recover, served in place of the upstream's at
	// EngineIO.Paths. Load checks that it is one. Default "", the upstream's client.
	Dir string `yaml:"dir"`
}

// Limits protects holdfast and the upstream from too much.
type Limits struct {
	// MaxConnections bounds the clients' TCP connections. 0, the default, is
	// no limit.
	MaxConnections int `yaml:"max_connections" reload:"live"`
	// MaxConnectionsPerAddress bounds those of one client address; trusted
	// proxies are not counted. 0, the default, is no limit.
	MaxConnectionsPerAddress int `yaml:"max_connections_per_address" reload:"live"`
	// HandshakesPerSecondPerAddress bounds the handshakes of one client
	// address, in the long run; ten seconds' worth may come at once. 0, the
	// default, is no limit.
	HandshakesPerSecondPerAddress int `yaml:"handshakes_per_second_per_address" reload:"live"`
	// FailedResumesPerSecondPerAddress bounds the CONNECTs of one client
	// address that present a pid nobody has; ten seconds' worth may come at
	// once. Beyond it pids are not looked up. Default 100; 0 is no limit.
	FailedResumesPerSecondPerAddress int `yaml:"failed_resumes_per_second_per_address" reload:"live"`
	// TakeoversPerMinutePerSession bounds how often one session moves from a live client to a newer one, in the
	// long run; a minute's worth may come at once. Beyond it the newer client is closed after some seconds, and the
	// session stays. Default 30; 0 is no limit.
	TakeoversPerMinutePerSession int `yaml:"takeovers_per_minute_per_session" reload:"live"`
	// HeaderBytes bounds a request's line and header, in bytes. Default 64KiB.
	HeaderBytes Size `yaml:"header_bytes"`
	// ReadHeaderTimeout bounds the reading of them. Default 10s.
	ReadHeaderTimeout time.Duration `yaml:"read_header_timeout"`
	// BodyTimeout bounds the reading of a POST's body. Default 30s.
	BodyTimeout time.Duration `yaml:"body_timeout" reload:"live"`
	// IdleTimeout closes a keep-alive connection without requests. Default 2m.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	// MaxNamespacesPerConnection bounds the namespaces that one client may
	// connect to. Default 100.
	MaxNamespacesPerConnection int `yaml:"max_namespaces_per_connection" reload:"live"`
}

// Shutdown is the behaviour on SIGTERM.
type Shutdown struct {
	// DrainTimeout is how long known sessions may go on. Default 30s; 0 ends
	// at once.
	DrainTimeout time.Duration `yaml:"drain_timeout" reload:"live"`
}

// Admin is the operator's listener.
type Admin struct {
	// Listen takes the forms of Config.Listen, or "" for no such listener.
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

// Default returns the configuration of a holdfast that was told nothing. The
// caller owns its slices.
func Default() Config {
	return Config{
		Listen: "0.0.0.0:8080",
		Upstream: Upstream{
			URL:                "http://127.0.0.1:3000",
			DialTimeout:        5 * time.Second,
			HandshakeTimeout:   10 * time.Second,
			MaxConcurrentDials: 256,
			Handshake:          Eager,
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
			Bind:                     Bind{Headers: []string{}, Cookies: []string{}, Auth: []string{}},
			Clients:                  Clients{Mode: AllClients},
			Namespaces:               Namespaces{Include: []string{"*"}, Exclude: []string{}},
			Buffer: Buffer{
				MaxPackets: 100000,
				MaxBytes:   16 * MiB,
				Window:     1 * MiB,
			},
		},
		Events: Events{Volatile: []string{}, Latest: []string{}},
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
		Shutdown:       Shutdown{DrainTimeout: 30 * time.Second},
		Admin:          Admin{Listen: "127.0.0.1:9090"},
		Log:            Log{Level: "info", Format: "text"},
	}
}
