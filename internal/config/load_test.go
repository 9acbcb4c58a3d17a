package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"reflect"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

// write puts text into a separate file, in the test's working directory so
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
