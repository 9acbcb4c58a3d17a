package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
)

func read(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// config.example.yaml has every key, at its default, with a comment.
func TestExampleFile(t *testing.T) {
	text := read(t, "..", "..", "config.example.yaml")
	l := newLoader()
	l.config = Config{} // a key that the file leaves out stays zero
	l.applyYAML("config.example.yaml", []byte(text))
	for _, p := range l.problems {
		t.Error(p)
	}
	if !reflect.DeepEqual(l.config, Default()) {
		t.Errorf("got %+v\nwant %+v", l.config, Default())
	}
	for _, key := range allKeys {
		if l.sources[key] == "" {
			t.Errorf("%s is not in the file", key)
		}
	}

	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		t.Fatal(err)
	}
	var check func(prefix string, node *yaml.Node)
	check = func(prefix string, node *yaml.Node) {
		for i := 0; i < len(node.Content); i += 2 {
			key, value := node.Content[i], node.Content[i+1]
			if value.Kind == yaml.MappingNode {
				check(prefix+key.Value+".", value)
			} else if key.HeadComment == "" {
				t.Errorf("%s%s has no comment", prefix, key.Value)
			}
		}
	}
	check("", document.Content[0])
}

// docs/configuration.md has one row for every key, with its type and default,
// and none for anything else.
func TestConfigurationPage(t *testing.T) {
	page := read(t, "..", "..", "docs", "configuration.md")
	rows := map[string][]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_.]+)` \\|(.*)\\|$").FindAllStringSubmatch(page, -1) {
		if rows[m[1]] != nil {
			t.Errorf("two rows for %s", m[1])
		}
		var cells []string
		for cell := range strings.SplitSeq(m[2], "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		rows[m[1]] = cells
	}
	c := Default()
	for _, s := range settings(&c) {
		row := rows[s.key]
		delete(rows, s.key)
		if len(row) != 4 {
			t.Errorf("%s: the row is %q; want type, default, limits, meaning", s.key, row)
			continue
		}
		want := s.format()
		switch {
		case s.value.Type() == reflect.TypeFor[URLs]():
		case s.value.Kind() == reflect.Slice:
			want = "[" + strings.ReplaceAll(want, ",", ", ") + "]"
		case want == "":
			want = `""`
		}
		if row[1] != "`"+want+"`" {
			t.Errorf("%s: the default is %s, want `%s`", s.key, row[1], want)
		}
		if got := row[0]; got != typeName(s) && (got != "address" || !strings.HasSuffix(s.key, "listen")) {
			t.Errorf("%s: the type is %s, want %s", s.key, got, typeName(s))
		}
		if row[3] == "" {
			t.Errorf("%s: no meaning", s.key)
		}
	}
	for key := range rows {
		t.Errorf("%s is documented, but not a key", key)
	}
	for _, f := range settingFlags {
		if want := "| `-" + f.name + " " + f.arg + "` | `" + f.key + "` |"; !strings.Contains(page, want) {
			t.Errorf("no row %s", want)
		}
	}
}

func typeName(s setting) string {
	switch s.value.Interface().(type) {
	case time.Duration:
		return "duration"
	case Size:
		return "size"
	case int:
		return "number"
	case bool:
		return "bool"
	case URLs:
		return "text or list"
	case []string:
		return "list"
	}
	return "text"
}

// The page lists exactly the keys that can change while holdfast runs.
func TestConfigurationPageReload(t *testing.T) {
	_, section, _ := strings.Cut(read(t, "..", "..", "docs", "configuration.md"), "\n## Reloading\n")
	section, _, _ = strings.Cut(section, "\n## ")
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^(- |  ).*$").FindAllString(section, -1) {
		for _, key := range regexp.MustCompile("`([a-z0-9_.]+)`").FindAllStringSubmatch(m, -1) {
			listed[key[1]] = true
		}
	}
	c := Default()
	for _, s := range settings(&c) {
		if s.live != listed[s.key] {
			t.Errorf("%s: can change at run time %v, listed %v", s.key, s.live, listed[s.key])
		}
		delete(listed, s.key)
	}
	for key := range listed {
		t.Errorf("%s is listed, but not a key", key)
	}
}

// The page's examples are valid files, and every key is in one of them.
func TestConfigurationPageExamples(t *testing.T) {
	page := read(t, "..", "..", "docs", "configuration.md")
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(page, -1)
	if len(examples) < 5 {
		t.Errorf("found %d examples only", len(examples))
	}
	shown := map[string]bool{}
	for _, m := range examples {
		l := newLoader()
		l.applyYAML("example", []byte(m[1]))
		for _, p := range append(l.problems, l.config.validate(l.sources, l.bad)...) {
			t.Errorf("%v in\n%s", p, m[1])
		}
		if len(l.sources) == 0 {
			t.Errorf("nothing is set by\n%s", m[1])
		}
		for key := range l.sources {
			shown[key] = true
		}
	}
	c := Default()
	for _, s := range settings(&c) {
		if !shown[s.key] {
			t.Errorf("no example has %s", s.key)
		}
	}
}

// The page shows errors in the words of the code.
func TestConfigurationPageErrors(t *testing.T) {
	page := read(t, "..", "..", "docs", "configuration.md")
	l := newLoader()
	l.applyYAML("holdfast.yaml", []byte("\n\n\n\nrecovery:\n  buffer:\n    maxBytes: 1MiB\n"))
	l.applyEnviron([]string{"HOLDFAST_LOG_LEVEL=verbose"})
	l.problems = append(l.problems, l.config.validate(l.sources, l.bad)...)
	want := "    holdfast: " + strings.ReplaceAll(asError(l.problems).Error(), "\n", "\n    ") + "\n"
	if !strings.Contains(page, want) {
		t.Errorf("the page lacks\n%s", want)
	}
}
