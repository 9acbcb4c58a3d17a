package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/siotest/sioserver"
)

// load reads a file as holdfast does.
func load(t *testing.T, file string) config.Config {
	t.Helper()
	line, err := config.ParseArgs([]string{"-config", file})
	if err != nil {
		t.Fatal(err)
	}
	cfg, _, err := config.Load(line, nil)
	if err != nil {
		text, _ := os.ReadFile(file)
		t.Fatalf("%v\n%s", err, text)
	}
	return cfg
}

func TestInitWritesFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "holdfast.yaml")
	server := oneConnection(t)
	var out strings.Builder
	if err := command.Init(t.Context(), []string{"-out", file, server}, &out); err != nil {
		t.Fatal(err)
	}
	cfg := load(t, file)
	if cfg.Upstream.URL.String() != server || cfg.Upstream.Handshake != config.Lazy || cfg.EngineIO.Paths[0] != "/socket.io/" {
		t.Errorf("got %+v", cfg)
	}
	if !strings.Contains(out.String(), "Wrote "+file) || !strings.Contains(out.String(), "holdfast -config "+file) {
		t.Errorf("the report does not say what to do next:\n%s", out.String())
	}
	if err := command.Init(t.Context(), []string{"-out", file, server}, &out); err == nil || !strings.HasPrefix(err.Error(), "init: "+file+" exists; -force") {
		t.Errorf("a second time: %v", err)
	}
	if err := command.Init(t.Context(), []string{"-out", file, "-force", server}, &out); err != nil {
		t.Errorf("with -force: %v", err)
	}
	var exit *ExitError
	none := filepath.Join(t.TempDir(), "none.yaml")
	if err := command.Init(t.Context(), []string{"-out", none, "http://127.0.0.1:9"}, &out); !errors.As(err, &exit) || exit.Status() != ExitNotFound {
		t.Errorf("without a server: %v", err)
	}
	if _, err := os.Stat(none); err == nil {
		t.Error("a file was written without a server")
	}
	if err := command.Init(t.Context(), []string{"-out", filepath.Join(none, "x"), newServer(t, sioserver.Options{})}, &out); err == nil || errors.Is(err, ErrUsage) {
		t.Errorf("into a folder that does not exist: %v", err)
	}
}

// Whatever the doctor finds, holdfast accepts the file.
func TestConfigIsValid(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		args   []string
		server Server
		check  func(config.Config) bool
	}{
		"nothing known":         {[]string{"http://127.0.0.1:3000"}, Server{}, func(c config.Config) bool { return c.Listen == "0.0.0.0:8080" }},
		"a server on port 8080": {[]string{"http://localhost:8080"}, Server{}, func(c config.Config) bool { return c.Listen == "0.0.0.0:8081" }},
		"long heartbeats": {[]string{"http://h"}, Server{PingIntervalMS: 60000, PingTimeoutMS: 180000}, func(c config.Config) bool {
			return c.EngineIO.PingInterval == 25*time.Second && c.EngineIO.PingTimeout == 20*time.Second
		}},
		"an old server":       {[]string{"http://h"}, Server{EngineIO: []int{3}}, func(c config.Config) bool { return c.Upstream.Protocol == config.ProtocolV3 }},
		"an old client":       {[]string{"http://h"}, Server{ClientBundle: "4.5.4", Software: "socket.io 4.5.4"}, nil},
		"recovery of its own": {[]string{"http://h"}, Server{OwnRecovery: true, MaxPayload: 1000}, nil},
		"another path":        {[]string{"http://h", "-path", "/a:b/"}, Server{}, func(c config.Config) bool { return c.EngineIO.Paths[0] == "/a:b/" }},
		"a Unix socket": {[]string{"unix:///run/a b.sock"}, Server{}, func(c config.Config) bool {
			_, path, _ := config.SplitURL(c.Upstream.URL[0])
			return path == "/run/a b.sock"
		}},
		"any certificate": {[]string{"https://h", "-insecure"}, Server{}, func(c config.Config) bool { return c.Upstream.TLS.InsecureSkipVerify }},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := ParseArgs("init", tt.args)
			if err != nil {
				t.Fatal(err)
			}
			r := Report{URL: o.URL.String(), Path: o.Path, Server: tt.server}
			if slices.Contains(tt.server.EngineIO, 3) {
				r.Findings = []Finding{{Code: CodeOldServer}}
			}
			text := Config(r, o, "v0.1.0", time.Now())
			file := filepath.Join(t.TempDir(), "holdfast.yaml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if cfg := load(t, file); tt.check != nil && !tt.check(cfg) {
				t.Errorf("%s\n%+v", text, cfg)
			}
			if !strings.HasPrefix(text, "# yaml-language-server: $schema=https://github.com/holdfast/holdfast/releases/download/v0.1.0/config.schema.json\n") {
				t.Errorf("the first line does not name the schema:\n%s", text)
			}
			for line := range strings.Lines(text) {
				if len(line) > fileWidth+1 && !strings.Contains(line, "$schema") {
					t.Errorf("a long line: %s", line)
				}
			}
		})
	}
	if got := schemaURL("dev"); !strings.Contains(got, "/main/") {
		t.Errorf("schema of a version without a release: %s", got)
	}
}
