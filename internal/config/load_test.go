package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
)

// write puts text into a file of its own, in the test's working directory so
// that errors name it briefly.
func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// load is Load with the arguments parsed.
func load(t *testing.T, args, environ []string) (Config, Sources, error) {
	t.Helper()
	c, err := ParseArgs(args)
	if err != nil {
		t.Fatal(err)
	}
	return Load(c, environ)
}

// problems gives an error's lines, none for nil.
func problems(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*Error](err)
	if !ok || !errors.Is(err, ErrInvalid) {
		t.Fatalf("got a %T: %v", err, err)
	}
	var lines []string
	for _, p := range e.Problems {
		lines = append(lines, p.String())
	}
	return lines
}

func TestNothingGivenIsDefault(t *testing.T) {
	got, sources, err := load(t, nil, []string{"PATH=/bin", "HOLDFASTER=1"})
	if err != nil || !reflect.DeepEqual(got, Default()) || len(sources) != 0 {
		t.Errorf("got %+v from %v, %v", got, sources, err)
	}
}

func TestPrecedence(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "h.yaml", "listen: :1\nadmin: {listen: ':2'}\nlog:\n  level: warn\n  format: json\n")
	tests := []struct {
		name          string
		args, environ []string
		want          string // listen, admin, level, format
		sources       Sources
	}{
		{
			"file over defaults",
			[]string{"-config", "h.yaml"},
			nil,
			":1 :2 warn json",
			Sources{"listen": "h.yaml:1", "admin.listen": "h.yaml:2", "log.level": "h.yaml:4", "log.format": "h.yaml:5"},
		},
		{
			"environment over file",
			[]string{"-config", "h.yaml"},
			[]string{"HOLDFAST_LISTEN=:3", "HOLDFAST_LOG_LEVEL=error"},
			":3 :2 error json",
			Sources{"listen": "HOLDFAST_LISTEN", "admin.listen": "h.yaml:2", "log.level": "HOLDFAST_LOG_LEVEL", "log.format": "h.yaml:5"},
		},
		{
			"flags over environment",
			[]string{"-config", "h.yaml", "-listen", ":5", "-log-level=debug"},
			[]string{"HOLDFAST_LISTEN=:3", "HOLDFAST_LOG_LEVEL=error", "HOLDFAST_LOG_FORMAT=text"},
			":5 :2 debug text",
			Sources{"listen": "-listen", "admin.listen": "h.yaml:2", "log.level": "-log-level", "log.format": "HOLDFAST_LOG_FORMAT"},
		},
		{
			"the last of two flags",
			[]string{"-listen", ":5", "-listen", ":6", "-admin", ""},
			nil,
			":6  info text",
			Sources{"listen": "-listen", "admin.listen": "-admin"},
		},
		{
			"file by variable",
			nil,
			[]string{"HOLDFAST_CONFIG=h.yaml"},
			":1 :2 warn json",
			Sources{"listen": "h.yaml:1", "admin.listen": "h.yaml:2", "log.level": "h.yaml:4", "log.format": "h.yaml:5"},
		},
		{
			"file by flag before file by variable",
			[]string{"-config", "h.yaml"},
			[]string{"HOLDFAST_CONFIG=absent.yaml"},
			":1 :2 warn json",
			Sources{"listen": "h.yaml:1", "admin.listen": "h.yaml:2", "log.level": "h.yaml:4", "log.format": "h.yaml:5"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, sources, err := load(t, tt.args, tt.environ)
			got := strings.Join([]string{c.Listen, c.Admin.Listen, c.Log.Level, c.Log.Format}, " ")
			if err != nil || got != tt.want || !reflect.DeepEqual(sources, tt.sources) {
				t.Errorf("got %q from %v, %v\nwant %q from %v", got, sources, err, tt.want, tt.sources)
			}
		})
	}
}

// Every setting can be given in each of the two ways that cover all.
func TestEverySettingEverywhere(t *testing.T) {
	values := map[string]string{
		"listen":                                       "127.0.0.1:81",
		"upstream.url":                                 "https://app.internal:3001",
		"upstream.discover":                            "dns",
		"upstream.dns_server":                          "10.0.0.53:53",
		"upstream.dial_timeout":                        "1s",
		"upstream.handshake_timeout":                   "2s",
		"upstream.max_concurrent_dials":                "3",
		"upstream.handshake":                           "lazy",
		"upstream.drop_cookies":                        "io,SID",
		"upstream.health.path":                         "/healthz?deep=1",
		"upstream.health.interval":                     "3s",
		"upstream.health.timeout":                      "4s",
		"upstream.protocol":                            "3",
		"upstream.translate.auth_to_query":             "token,user",
		"upstream.tls.ca_file":                         "",
		"upstream.tls.server_name":                     "app.example",
		"upstream.tls.insecure_skip_verify":            "true",
		"tls.cert_file":                                "",
		"tls.key_file":                                 "",
		"engineio.paths":                               "/a/,/b/",
		"engineio.ping_interval":                       "4s",
		"engineio.ping_timeout":                        "5s",
		"engineio.max_payload":                         "6KiB",
		"engineio.upgrade_timeout":                     "7s",
		"recovery.max_disconnection_duration":          "8m",
		"recovery.going_away_duration":                 "9s",
		"recovery.max_parked_sessions":                 "10",
		"recovery.ack_events":                          "at-least-once",
		"recovery.on_client_disconnect":                "park",
		"recovery.keyed.query":                         "key",
		"recovery.keyed.count_query":                   "count",
		"recovery.keyed.redeliver":                     "at-most-once",
		"recovery.keyed.forward":                       "true",
		"recovery.bind.headers":                        "Authorization,User-Agent",
		"recovery.bind.cookies":                        "session",
		"recovery.bind.auth":                           "token,user",
		"recovery.clients.mode":                        "opt-in",
		"recovery.clients.query":                       "recover",
		"recovery.clients.user_agent":                  "Firefox/1[0-9]{2}",
		"recovery.namespaces.include":                  "/,/game-*",
		"recovery.namespaces.exclude":                  "/game-7",
		"recovery.buffer.max_packets":                  "11",
		"recovery.buffer.max_bytes":                    "12MiB",
		"recovery.buffer.window":                       "128KiB",
		"recovery.buffer.total_bytes":                  "13MiB",
		"events.volatile":                              "cursor,/game typing*",
		"events.latest":                                "position",
		"events.join":                                  "join,/chat login",
		"notify.parked":                                "client_parked",
		"notify.resumed":                               "client_resumed",
		"client_bundle.dir":                            "",
		"cluster.listen":                               "127.0.0.1:92",
		"cluster.peers":                                "10.0.0.11:7400,peers.internal:7400",
		"cluster.secret":                               "0123456789abcdef0123456789abcdef",
		"cluster.secret_file":                          "",
		"cluster.advertise":                            "10.0.0.12:7400",
		"cluster.name":                                 "chat",
		"limits.max_connections":                       "14",
		"limits.max_connections_per_address":           "20",
		"limits.handshakes_per_second_per_address":     "21",
		"limits.failed_resumes_per_second_per_address": "22",
		"limits.takeovers_per_minute_per_session":      "24",
		"limits.body_timeout":                          "23s",
		"limits.header_bytes":                          "15KiB",
		"limits.read_header_timeout":                   "16s",
		"limits.idle_timeout":                          "17s",
		"limits.max_namespaces_per_connection":         "18",
		"trusted_proxies":                              "10.0.0.0/8,::1",
		"event_loop":                                   "false",
		"shutdown.drain_timeout":                       "19s",
		"handover.mode":                                "systemd",
		"handover.leave":                               "25s",
		"handover.timeout":                             "26s",
		"handover.verify":                              "false",
		"admin.listen":                                 "127.0.0.1:91",
		"admin.profiling":                              "true",
		"log.level":                                    "debug",
		"log.format":                                   "json",
	}
	want := Default()
	var environ []string
	for _, s := range settings(&want) {
		value, ok := values[s.key]
		if !ok {
			t.Errorf("no value for %s in this test", s.key)
			continue
		}
		if err := s.parse(value); err != nil {
			t.Errorf("%s: %v", s.key, err)
		}
		environ = append(environ, s.env()+"="+value)
	}

	got, sources, err := load(t, nil, environ)
	if err != nil || !reflect.DeepEqual(got, want) || len(sources) != len(allKeys) {
		t.Errorf("from the environment: %v\n got %+v\nwant %+v", err, got, want)
	}

	t.Chdir(t.TempDir())
	write(t, "h.yaml", string(want.YAML(nil)))
	got, sources, err = load(t, []string{"-config", "h.yaml"}, nil)
	if err != nil || !reflect.DeepEqual(got, want) || len(sources) != len(allKeys) {
		t.Errorf("from the file: %v\n got %+v\nwant %+v", err, got, want)
	}
}

func TestFileProblems(t *testing.T) {
	tests := []struct {
		name, yaml string
		want       []string // all problems; each begins with this
	}{
		{"empty", "", nil},
		{"comments only", "# nothing\n", nil},
		{"a start of document", "---\nlisten: :1\n", nil},
		{"a section without keys", "tls:\n#  cert_file: x\n", nil},
		{"an alias", "recovery: {max_disconnection_duration: &d 30s, going_away_duration: *d}\n", nil},
		{"an aliased section", "tls: &t {cert_file: '', key_file: ''}\nadmin: *t\n", []string{
			"h.yaml:1: admin.cert_file: unknown key; did you mean tls.cert_file?",
			"h.yaml:1: admin.key_file: unknown key; did you mean tls.key_file?",
		}},
		{"unknown key", "listn: :1\n", []string{"h.yaml:1: listn: unknown key; did you mean listen?"}},
		{
			"unknown key in a section", "recovery:\n  buffer:\n    maxBytes: 1MiB\n",
			[]string{"h.yaml:3: recovery.buffer.maxBytes: unknown key; did you mean max_bytes?"},
		},
		{
			"key of another section", "recovery:\n  window: 1MiB\n",
			[]string{"h.yaml:2: recovery.window: unknown key; did you mean recovery.buffer.window?"},
		},
		{
			"key like no other", "shutdown:\n  colour: red\n",
			[]string{"h.yaml:2: shutdown.colour: unknown key; allowed: drain_timeout"},
		},
		{"duplicate key", "listen: :1\nlog: {level: info}\nlisten: :2\n", []string{"h.yaml:3: listen: found twice, first on line 1; allowed: once"}},
		{"duplicate section", "log: {level: info}\nlog: {format: text}\n", []string{"h.yaml:2: log: found twice, first on line 1; allowed: once"}},
		{
			"bad duration", "recovery:\n  max_disconnection_duration: 2 minutes\n",
			[]string{`h.yaml:2: recovery.max_disconnection_duration: found "2 minutes"; allowed: a duration with a unit, such as 500ms, 90s or 1h30m`},
		},
		{
			"duration without unit", "recovery:\n  max_disconnection_duration: 120000\n",
			[]string{`h.yaml:2: recovery.max_disconnection_duration: found "120000"; the unit is missing (120000s or 120000ms?); allowed: a duration`},
		},
		{
			"bad size", "recovery: {buffer: {max_bytes: 16 megs}}\n",
			[]string{`h.yaml:1: recovery.buffer.max_bytes: found "16 megs"; allowed: a size in bytes, such as 4096, 64KiB or 16MB`},
		},
		{"bad number", "limits: {max_connections: many}\n", []string{`h.yaml:1: limits.max_connections: found "many"; allowed: a whole number`}},
		{"number too large", "limits: {max_connections: 99999999999}\n", []string{`h.yaml:1: limits.max_connections: found "99999999999"; allowed: a whole number`}},
		{"bad bool", "upstream: {tls: {insecure_skip_verify: yes}}\n", []string{`h.yaml:1: upstream.tls.insecure_skip_verify: found "yes"; allowed: true or false`}},
		{"no value", "listen:\n", []string{"h.yaml:1: listen: found no value; allowed: a string"}},
		{"list for a text", "listen: [':1', ':2']\n", []string{"h.yaml:1: listen: found a list; allowed: a string"}},
		{"section for a text", "listen: {port: 1}\n", []string{"h.yaml:1: listen: found a section; allowed: a string"}},
		{"text for a section", "recovery: off\n", []string{`h.yaml:1: recovery: found "off"; allowed: a section with the keys max_disconnection_duration, going_away_duration,`}},
		{"text for a list", "trusted_proxies: 10.0.0.0/8\n", []string{`h.yaml:1: trusted_proxies: found "10.0.0.0/8"; allowed: a list`}},
		{"no value for a list", "trusted_proxies:\n", []string{`h.yaml:1: trusted_proxies: found no value; allowed: a list`}},
		{"list in a list", "trusted_proxies:\n  - 10.0.0.0/8\n  - [1]\n", []string{"h.yaml:3: trusted_proxies: found a list in the list; allowed: texts"}},
		{"no value in a list", "trusted_proxies:\n  -\n", []string{"h.yaml:2: trusted_proxies: found no value in the list; allowed: texts"}},
		{"a list at the top", "- listen\n", []string{"h.yaml:1: found a list; allowed: a section with the keys listen, upstream,"}},
		{"a text at the top", "listen\n", []string{`h.yaml:1: found "listen"; allowed: a section with the keys listen,`}},
		{"a list as key", "? [a, b]\n: 1\n", []string{"h.yaml:1: found a list in place of a key"}},
		{"a key with a line break", "\"lis\\nten\": 1\n", []string{`h.yaml:1: "lis\nten": unknown key; did you mean listen?`}},
		{"two documents", "listen: :1\n---\nlisten: :2\n", []string{"h.yaml:2: found a second YAML document; allowed: one"}},
		{"tabs", "upstream:\n\turl: http://a:1\n", []string{"h.yaml:2: invalid YAML: found character that cannot start any token"}},
		{"unclosed", "engineio: {paths: [/a/\n", []string{"h.yaml:"}},
		{"unknown anchor", "listen: *nowhere\n", []string{"h.yaml: invalid YAML: unknown anchor 'nowhere' referenced"}},
		{
			"out of range, with its line", "listen: :1\nrecovery:\n  buffer:\n    window: 32KiB\n",
			[]string{`h.yaml:4: recovery.buffer.window: found "32KiB"; allowed: 64KiB or more`},
		},
		{
			"all at once", "listen: nowhere\nlog:\n  level: loud\n  colour: red\nlimits:\n  idle_timeout: 5\n",
			[]string{
				`h.yaml:4: log.colour: unknown key; allowed: level, format`,
				`h.yaml:6: limits.idle_timeout: found "5"; the unit is missing`,
				`h.yaml:1: listen: found "nowhere"; allowed: host:port`,
				`h.yaml:3: log.level: found "loud"; allowed: debug, info, warn or error`,
			},
		},
		{
			"no second problem from a value that could not be read", "recovery: {buffer: {max_bytes: 512KiB, window: huge}}\n",
			[]string{`h.yaml:1: recovery.buffer.window: found "huge"; allowed: a size`},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			write(t, "h.yaml", tt.yaml)
			_, _, err := load(t, []string{"-config", "h.yaml"}, nil)
			got := problems(t, err)
			ok := len(got) == len(tt.want)
			for i := range min(len(got), len(tt.want)) {
				ok = ok && strings.HasPrefix(got[i], tt.want[i])
			}
			if !ok {
				t.Errorf("%s\n got %s\nwant %s", tt.yaml, strings.Join(got, "\n     "), strings.Join(tt.want, "\n     "))
			}
		})
	}
}

func TestUnreadableFile(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "large.yaml", "#"+strings.Repeat("x", maxFileBytes))
	tests := []struct {
		name          string
		args, environ []string
		want          string
	}{
		{"absent", []string{"-config", "absent.yaml"}, nil, `-config: found "absent.yaml": no such file or directory; allowed: a readable YAML file`},
		{"absent, by variable", nil, []string{"HOLDFAST_CONFIG=absent.yaml"}, `HOLDFAST_CONFIG: found "absent.yaml": no such file`},
		{"directory", []string{"-config", "."}, nil, `-config: found ".": `},
		{"too large", []string{"-config", "large.yaml"}, nil, `-config: found "large.yaml": larger than 1MiB`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := load(t, tt.args, tt.environ)
			if got := problems(t, err); len(got) != 1 || !strings.HasPrefix(got[0], tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	tests := []struct {
		name    string
		environ []string
		want    []string
	}{
		{"empty list", []string{"HOLDFAST_TRUSTED_PROXIES="}, nil},
		{"list with blanks", []string{"HOLDFAST_ENGINEIO_PATHS=/a/, /b/"}, nil},
		{"admin turned off", []string{"HOLDFAST_ADMIN_LISTEN="}, nil},
		{"empty duration", []string{"HOLDFAST_UPSTREAM_DIAL_TIMEOUT="}, []string{`HOLDFAST_UPSTREAM_DIAL_TIMEOUT: upstream.dial_timeout: found ""; allowed: a duration`}},
		{
			"unknown",
			[]string{"HOLDFAST_UPSTREAM=http://a:1"},
			[]string{"HOLDFAST_UPSTREAM: unknown variable; did you mean HOLDFAST_UPSTREAM_URL?"},
		},
		{
			"misspelt",
			[]string{"HOLDFAST_LOG_LEVELS=info"},
			[]string{"HOLDFAST_LOG_LEVELS: unknown variable; did you mean HOLDFAST_LOG_LEVEL?"},
		},
		{
			"like no other is somebody else's",
			[]string{"HOLDFAST_X=1"},
			nil,
		},
		{
			"out of range",
			[]string{"HOLDFAST_LIMITS_HEADER_BYTES=1"},
			[]string{`HOLDFAST_LIMITS_HEADER_BYTES: limits.header_bytes: found "1"; allowed: 4KiB to 16MiB`},
		},
		{
			"Kubernetes' variables for services called holdfast and holdfast-chat",
			[]string{
				"HOLDFAST_SERVICE_HOST=10.0.0.1", "HOLDFAST_SERVICE_PORT=8080", "HOLDFAST_SERVICE_PORT_HTTP=8080",
				"HOLDFAST_PORT=tcp://10.0.0.1:8080", "HOLDFAST_PORT_8080_TCP=tcp://10.0.0.1:8080",
				"HOLDFAST_PORT_8080_TCP_PROTO=tcp", "HOLDFAST_PORT_8080_TCP_PORT=8080", "HOLDFAST_PORT_8080_TCP_ADDR=10.0.0.1",
				"HOLDFAST_CHAT_SERVICE_HOST=10.0.0.1", "HOLDFAST_CHAT_PORT=udp://10.0.0.1:1",
			},
			nil,
		},
		{
			"Kubernetes' variables for services whose names are like settings",
			[]string{
				"HOLDFAST_ADMIN_LISTEN_SERVICE_HOST=10.0.0.1", "HOLDFAST_LOG_SERVICE_PORT=80", "HOLDFAST_UPSTREAM_PORT=tcp://[fd00::1]:80",
				"HOLDFAST_LISTEN_PORT_80_TCP_ADDR=fd00::1", "HOLDFAST_TLS_SERVICE_PORT_HTTPS_ALT=443",
			},
			nil,
		},
		{
			"Docker's variables for a linked container",
			[]string{"HOLDFAST_NAME=/web/holdfast", "HOLDFAST_ENV_LISTEN=x", "HOLDFAST_PORT_80_TCP=tcp://172.17.0.2:80", "HOLDFAST_LOG_ENV_PATH=/bin"},
			nil,
		},
		{
			"somebody else's, but near to one of ours",
			[]string{"HOLDFAST_VERSION=1.2"},
			[]string{"HOLDFAST_VERSION: unknown variable; did you mean HOLDFAST_EVENTS_JOIN? If it is meant for something else, unset it for holdfast or rename it"},
		},
		{
			"named as Kubernetes' are, with another value",
			[]string{"HOLDFAST_ADMIN_PORT=9090"},
			[]string{"HOLDFAST_ADMIN_PORT: unknown variable; did you mean HOLDFAST_ADMIN_LISTEN? If Kubernetes sets it for a service of that name, set enableServiceLinks: false in the pod's spec;"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := load(t, nil, tt.environ)
			got := problems(t, err)
			ok := len(got) == len(tt.want)
			for i := range min(len(got), len(tt.want)) {
				ok = ok && strings.HasPrefix(got[i], tt.want[i])
			}
			if !ok {
				t.Errorf("%v\n got %q\nwant %q", tt.environ, got, tt.want)
			}
		})
	}
}

func TestParseArgs(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want CommandLine
		err  string
	}{
		{"none", nil, CommandLine{}, ""},
		{"modes", []string{"-check", "-version", "-demo"}, CommandLine{Check: true, Version: true, Demo: true}, ""},
		{"file", []string{"--config=a.yaml"}, CommandLine{File: "a.yaml"}, ""},
		{"positional", []string{"-check", "http://a:1"}, CommandLine{}, `invalid configuration: command line: found the argument "http://a:1"; allowed: flags only, see holdfast -h`},
		{"unknown", []string{"-zzz"}, CommandLine{}, "invalid configuration: command line: flag provided but not defined: -zzz; allowed: -admin, -check, -config,"},
		{"misspelt", []string{"-upstrem", "x"}, CommandLine{}, "invalid configuration: command line: flag provided but not defined: -upstrem; did you mean -upstream?"},
		{"no value", []string{"-listen"}, CommandLine{}, "invalid configuration: command line: flag needs an argument: -listen; see holdfast -h"},
		{"bad bool", []string{"-check=maybe"}, CommandLine{}, `invalid configuration: command line: invalid boolean value "maybe" for -check`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseArgs(tt.args)
			if tt.err != "" {
				if err == nil || !errors.Is(err, ErrInvalid) || !strings.HasPrefix(err.Error(), tt.err) {
					t.Errorf("ParseArgs(%q): %v; want %s", tt.args, err, tt.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("ParseArgs(%q) = %+v, %v; want %+v", tt.args, got, err, tt.want)
			}
		})
	}
	if _, err := ParseArgs([]string{"-h"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: %v", err)
	}
}

func TestFlagProblem(t *testing.T) {
	_, _, err := load(t, []string{"-log-level", "loud"}, nil)
	if got := problems(t, err); len(got) != 1 || got[0] != `-log-level: log.level: found "loud"; allowed: debug, info, warn or error` {
		t.Errorf("got %q", got)
	}
}

func TestUsage(t *testing.T) {
	var b strings.Builder
	Usage(&b)
	for _, f := range settingFlags {
		if !strings.Contains(b.String(), "\n  -"+f.name+" ") {
			t.Errorf("no -%s in:\n%s", f.name, b.String())
		}
	}
	for _, want := range []string{"-config FILE", "-check", "-version", "-demo", "(default http://127.0.0.1:3000)", "HOLDFAST_CONFIG"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in:\n%s", want, b.String())
		}
	}
}

// What -check prints is a file that loads to the same, and says where each
// value came from.
func TestYAMLShowsSources(t *testing.T) {
	c, sources, err := load(t, []string{"-log-level", "debug"},
		[]string{"HOLDFAST_TRUSTED_PROXIES=10.0.0.0/8,::1", "HOLDFAST_ADMIN_LISTEN="})
	if err != nil {
		t.Fatal(err)
	}
	text := string(c.YAML(sources))
	for _, want := range []string{
		"\n  level: debug # -log-level\n",
		"\ntrusted_proxies: [10.0.0.0/8, '::1'] # HOLDFAST_TRUSTED_PROXIES\n",
		"\n  listen: \"\" # HOLDFAST_ADMIN_LISTEN\n",
		"\n    window: 1MiB\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	t.Chdir(t.TempDir())
	write(t, "h.yaml", text)
	again, _, err := load(t, []string{"-config", "h.yaml"}, nil)
	if err != nil || !reflect.DeepEqual(again, c) {
		t.Errorf("got %+v, %v\nwant %+v", again, err, c)
	}
}

func TestCertificateFiles(t *testing.T) {
	t.Chdir(t.TempDir())
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyBytes, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	write(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyBytes})))
	write(t, "text.pem", "not a certificate\n")
	tests := []struct {
		name    string
		environ []string
		want    string
	}{
		{"good", []string{"HOLDFAST_TLS_CERT_FILE=cert.pem", "HOLDFAST_TLS_KEY_FILE=key.pem", "HOLDFAST_UPSTREAM_TLS_CA_FILE=cert.pem"}, ""},
		{
			"one of two",
			[]string{"HOLDFAST_TLS_KEY_FILE=key.pem"},
			`HOLDFAST_TLS_KEY_FILE: tls.key_file: found "key.pem"; allowed: both tls.cert_file and tls.key_file, or neither`,
		},
		{
			"absent",
			[]string{"HOLDFAST_TLS_CERT_FILE=absent.pem", "HOLDFAST_TLS_KEY_FILE=key.pem"},
			`HOLDFAST_TLS_CERT_FILE: tls.cert_file: found "absent.pem"; allowed: PEM files of a certificate and its key (`,
		},
		{
			"no authority",
			[]string{"HOLDFAST_UPSTREAM_TLS_CA_FILE=text.pem"},
			`HOLDFAST_UPSTREAM_TLS_CA_FILE: upstream.tls.ca_file: found "text.pem"; allowed: a PEM file of certificates (it contains no certificate)`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := load(t, nil, tt.environ)
			got := strings.Join(problems(t, err), "\n")
			if tt.want == "" && got != "" || !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte("listen: :1\nrecovery: {buffer: {window: 64KiB}}\n"))
	f.Add([]byte("a: &a [*a]\nlisten: *a\n"))
	f.Add([]byte("<<: {listen: ':1'}\n? {a: b}\n: c\n"))
	f.Add([]byte("listen: :1\n---\n"))
	f.Add(Default().YAML(nil))
	example, err := os.ReadFile(filepath.Join("..", "..", "config.example.yaml"))
	if err == nil {
		f.Add(example)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l := newLoader()
		l.applyYAML("h.yaml", data)
		l.problems = append(l.problems, l.config.validate(l.sources, l.bad)...)
		for _, p := range l.problems {
			if strings.ContainsAny(p.String(), "\n\r") {
				t.Errorf("more than one line: %q", p)
			}
		}
		if len(l.problems) > 0 {
			return
		}
		again := newLoader()
		again.applyYAML("h.yaml", l.config.YAML(l.sources))
		if len(again.problems) > 0 || !reflect.DeepEqual(again.config, l.config) {
			t.Errorf("%v\n%+v is printed as\n%s", again.problems, l.config, l.config.YAML(l.sources))
		}
	})
}

// The limit for one client has to fit into the default budget, too.
func TestWindowLargerThanTheAutomaticBudget(t *testing.T) {
	before := debug.SetMemoryLimit(64 << 20)
	defer debug.SetMemoryLimit(before)
	environ := func(window string) []string {
		return []string{"HOLDFAST_RECOVERY_BUFFER_WINDOW=" + window, "HOLDFAST_RECOVERY_BUFFER_MAX_BYTES=64MiB"}
	}
	if _, _, err := load(t, nil, environ("32MiB")); err != nil {
		t.Errorf("all of the budget: %v", err)
	}
	_, _, err := load(t, nil, environ("33MiB"))
	want := `HOLDFAST_RECOVERY_BUFFER_WINDOW: recovery.buffer.window: found "33MiB"; allowed: at most 32MiB, the automatic value of recovery.buffer.total_bytes (half of GOMEMLIMIT)`
	if got := problems(t, err); len(got) != 1 || got[0] != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// A single URL may be a text. In a file it is one URL whatever it contains; elsewhere commas separate several.
func TestURLs(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		environ    []string
		want       URLs
		yaml       string
	}{
		{"a text", "upstream: {url: 'http://a:1'}", nil, URLs{"http://a:1"}, "url: http://a:1\n"},
		{"a text with a comma", "upstream: {url: 'unix:///run/a,b.sock'}", nil, URLs{"unix:///run/a,b.sock"}, "url: unix:///run/a,b.sock\n"},
		{"a list of one", "upstream: {url: ['http://a:1']}", nil, URLs{"http://a:1"}, "url: http://a:1\n"},
		{"a list", "upstream: {url: ['http://a:1', 'http://b:1']}", nil, URLs{"http://a:1", "http://b:1"}, "url: ['http://a:1', 'http://b:1']\n"},
		{"a variable", "", []string{"HOLDFAST_UPSTREAM_URL=http://a:1, http://b:1"}, URLs{"http://a:1", "http://b:1"}, "url: ['http://a:1', 'http://b:1']\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			write(t, "h.yaml", tt.file)
			c, _, err := load(t, []string{"-config", "h.yaml"}, tt.environ)
			if err != nil || !slices.Equal(c.Upstream.URL, tt.want) {
				t.Fatalf("got %q, %v, want %q", c.Upstream.URL, err, tt.want)
			}
			if got := string(c.YAML(nil)); !strings.Contains(got, tt.yaml) && !strings.Contains(got, strings.ReplaceAll(tt.yaml, "'", "\"")) && !strings.Contains(got, strings.ReplaceAll(tt.yaml, "'", "")) {
				t.Errorf("%s\ndoes not have %s", got, tt.yaml)
			}
		})
	}
}
