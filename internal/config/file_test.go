package config

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

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
			[]string{`h.yaml:2: recovery.max_disconnection_duration: found "2 minutes"; allowed: a duration with a unit (ms, s, m or h) and without a sign, such as 500ms, 90s or 1h30m`},
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

// A single URL may be a text. In a file it is always one URL; elsewhere commas separate several.
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
