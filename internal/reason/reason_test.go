package reason

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// constants returns the reasons that reason.go declares, by the names of their constants.
func constants(t *testing.T) map[string]Reason {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "reason.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]Reason)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Type == nil || len(spec.Values) != 1 {
			return true
		}
		if word, ok := spec.Values[0].(*ast.BasicLit); ok {
			s, err := strconv.Unquote(word.Value)
			if err != nil {
				t.Fatal(err)
			}
			all[spec.Names[0].Name] = Reason(s)
		}
		return true
	})
	if len(all) < 20 {
		t.Fatalf("found only %v", all)
	}
	return all
}

// sources returns the code of the packages that decide on reasons, without tests and comments.
func sources(t *testing.T) string {
	t.Helper()
	var code strings.Builder
	for _, dir := range []string{"session", "proxy", "internal/admin/status"} {
		files, err := filepath.Glob(filepath.Join("..", "..", filepath.FromSlash(dir), "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no files of %s: %v", dir, err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			code.Write(regexp.MustCompile(`(?m)//.*$`).ReplaceAll(b, nil))
		}
	}
	return code.String()
}

func TestEveryReasonIsListedAndUsed(t *testing.T) {
	listed := slices.Concat(Recovered(), Failed(), Parked(), Closed())
	code := sources(t)
	all := constants(t)
	for name, r := range all {
		if !slices.Contains(listed, r) {
			t.Errorf("%s is on no list", name)
		}
		if r.Meaning() == "" {
			t.Errorf("%s has no meaning", name)
		}
		if !regexp.MustCompile(`\breason\.` + name + `\b`).MatchString(code) {
			t.Errorf("%s is used nowhere", name)
		}
	}
	if len(meanings) != len(all) {
		t.Errorf("%d meanings for %d reasons", len(meanings), len(all))
	}
}

// A conversion would admit words that are on no list.
func TestNoWordIsConvertedToAReason(t *testing.T) {
	if m := regexp.MustCompile(`\breason\.Reason\([^)]`).FindString(sources(t)); m != "" {
		t.Errorf("found %q", m)
	}
}
