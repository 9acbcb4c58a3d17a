package config

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// allKeys is the published set: a key that goes away or changes its name
// breaks users' files, so it must break a test first.
var allKeys = strings.Fields(`
	listen
	upstream.url upstream.discover upstream.dns_server
	upstream.dial_timeout upstream.handshake_timeout upstream.max_concurrent_dials upstream.handshake upstream.drop_cookies
	upstream.protocol upstream.translate.auth_to_query
	upstream.health.path upstream.health.interval upstream.health.timeout
	upstream.tls.ca_file upstream.tls.server_name upstream.tls.insecure_skip_verify
	tls.cert_file tls.key_file
	engineio.paths engineio.ping_interval engineio.ping_timeout engineio.max_payload engineio.upgrade_timeout
	recovery.max_disconnection_duration recovery.going_away_duration recovery.max_parked_sessions recovery.ack_events recovery.on_client_disconnect
	recovery.keyed.query recovery.keyed.count_query recovery.keyed.redeliver recovery.keyed.forward
	recovery.bind.headers recovery.bind.cookies recovery.bind.auth
	recovery.clients.mode recovery.clients.query recovery.clients.user_agent
	recovery.namespaces.include recovery.namespaces.exclude
	recovery.buffer.max_packets recovery.buffer.max_bytes recovery.buffer.window recovery.buffer.total_bytes
	events.volatile events.latest events.join
	notify.parked notify.resumed
	client_bundle.dir
	cluster.listen cluster.peers cluster.secret cluster.secret_file cluster.advertise cluster.name
	limits.max_connections limits.max_connections_per_address limits.handshakes_per_second_per_address
	limits.failed_resumes_per_second_per_address limits.takeovers_per_minute_per_session limits.header_bytes limits.read_header_timeout limits.body_timeout limits.idle_timeout
	limits.max_namespaces_per_connection
	trusted_proxies event_loop
	shutdown.drain_timeout
	handover.mode handover.leave handover.timeout handover.verify
	admin.listen admin.profiling
	log.level log.format
`)

func TestKeys(t *testing.T) {
	c := Default()
	var got []string
	env := map[string]string{}
	for _, s := range settings(&c) {
		got = append(got, s.key)
		if previous, ok := env[s.env()]; ok {
			t.Errorf("%s and %s share the variable %s", previous, s.key, s.env())
		}
		env[s.env()] = s.key
		if strings.HasSuffix(s.key, ".") || strings.Contains(s.key, "..") {
			t.Errorf("a field before %q has no yaml name", s.key)
		}
	}
	if !slices.Equal(got, allKeys) {
		t.Errorf("keys:\n got %v\nwant %v", got, allKeys)
	}
}

// Fields are named as their keys, so that one can be found from the other.
func TestFieldNames(t *testing.T) {
	var check func(typ reflect.Type)
	check = func(typ reflect.Type) {
		for field := range typ.Fields() {
			if got := strings.ReplaceAll(yamlName(field), "_", ""); !strings.EqualFold(got, field.Name) {
				t.Errorf("%v.%s has the key %s", typ, field.Name, yamlName(field))
			}
			if field.Type.Kind() == reflect.Struct {
				check(field.Type)
			}
		}
	}
	check(reflect.TypeFor[Config]())
}

func TestDefaultIsValid(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
}

func TestDefaultsAreIndependent(t *testing.T) {
	a := Default()
	a.EngineIO.Paths[0] = "/changed/"
	if got := Default().EngineIO.Paths[0]; got != "/socket.io/" {
		t.Errorf("a change of one Default reached the next: %q", got)
	}
}

// Every type of setting survives its own text form.
func TestSettingRoundTrip(t *testing.T) {
	c := Default()
	c.TrustedProxies = []string{"10.0.0.0/8", "::1"}
	c.Upstream.TLS.InsecureSkipVerify = true
	var d Config
	d.EngineIO.Paths, d.TrustedProxies = []string{}, []string{}
	d.Events.Volatile, d.Events.Latest = []string{}, []string{}
	to := settings(&d)
	for i, s := range settings(&c) {
		if err := to[i].parse(s.format()); err != nil {
			t.Errorf("%s: %q: %v", s.key, s.format(), err)
		}
	}
	if !reflect.DeepEqual(c, d) {
		t.Errorf("got %+v\nwant %+v", d, c)
	}
}

func TestParseDuration(t *testing.T) {
	tests := []struct {
		name, in string
		want     time.Duration
		err      string
	}{
		{"seconds", "90s", 90 * time.Second, ""},
		{"milliseconds", "250ms", 250 * time.Millisecond, ""},
		{"compound", "1h30m", 90 * time.Minute, ""},
		{"fraction", "1.5s", 1500 * time.Millisecond, ""},
		{"zero", "0", 0, ""},
		{"zero with unit", "0s", 0, ""},
		{"no unit", "30", 0, "the unit is missing (30s or 30ms?)"},
		{"negative", "-5s", 0, "allowed: a duration with a unit"},
		{"plus", "+5s", 0, "allowed: a duration with a unit"},
		{"days", "2d", 0, "allowed: a duration with a unit"},
		{"words", "two minutes", 0, "allowed: a duration with a unit"},
		{"empty", "", 0, "allowed: a duration with a unit"},
		{"too long", "9999999999h", 0, "allowed: a duration with a unit"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseDuration(tt.in)
			if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.HasPrefix(err.Error(), tt.err) {
				t.Errorf("parseDuration(%q) = %v, %v; want %v, %q", tt.in, got, err, tt.want, tt.err)
			}
		})
	}
}

func TestFormatDuration(t *testing.T) {
	tests := []struct {
		in   time.Duration
		want string
	}{
		{0, "0"},
		{2 * time.Minute, "2m"},
		{time.Hour, "1h"},
		{90 * time.Minute, "1h30m"},
		{time.Hour + 10*time.Second, "1h0m10s"},
		{10 * time.Second, "10s"},
		{10 * time.Minute, "10m"},
		{20 * time.Hour, "20h"},
		{250 * time.Millisecond, "250ms"},
		{1500 * time.Millisecond, "1.5s"},
	}
	for _, tt := range tests {
		if got := formatDuration(tt.in); got != tt.want {
			t.Errorf("formatDuration(%d) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	candidates := []string{"max_packets", "max_bytes", "window", "total_bytes"}
	tests := []struct{ name, in, want string }{
		{"a letter missing", "max_byte", "max_bytes"},
		{"other style", "maxBytes", "max_bytes"},
		{"dashes", "max-packets", "max_packets"},
		{"swapped letters", "widnow", "window"},
		{"nothing alike", "colour", ""},
		{"empty", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.want
			if want != "" {
				want = "; did you mean " + want + "?"
			}
			if got := didYouMean(tt.in, candidates); got != want {
				t.Errorf("didYouMean(%q) = %q, want %q", tt.in, got, want)
			}
		})
	}
}

func TestErrorText(t *testing.T) {
	one := Problem{Source: "holdfast.yaml:3", Key: "listen", Message: `found "x"; allowed: y`}
	two := Problem{Source: "command line", Message: "bad"}
	tests := []struct {
		name string
		err  Error
		want string
	}{
		{"one", Error{[]Problem{one}}, `invalid configuration: holdfast.yaml:3: listen: found "x"; allowed: y`},
		{"two", Error{[]Problem{one, two}}, "invalid configuration, 2 problems:\n" +
			"  holdfast.yaml:3: listen: found \"x\"; allowed: y\n  command line: bad"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.err.Error(); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			if !errors.Is(&tt.err, ErrInvalid) {
				t.Error("does not wrap ErrInvalid")
			}
		})
	}
}

func TestSourcesInvalid(t *testing.T) {
	tests := []struct {
		name    string
		sources Sources
		want    string
	}{
		{"from the file", Sources{"listen": "h.yaml:2"}, `invalid configuration: h.yaml:2: listen: found ":80"; allowed: a free port`},
		{"the default", nil, `invalid configuration: listen: found ":80" (the default); allowed: a free port`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.sources.Invalid("listen", ":80", "a free port")
			if err.Error() != tt.want || !errors.Is(err, ErrInvalid) {
				t.Errorf("got %q, want %q", err, tt.want)
			}
		})
	}
}
