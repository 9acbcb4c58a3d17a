// Package pagetest checks pages in docs/ against the code, in tests.
package pagetest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Read returns a page in docs/, for a test in a package two folders below the root.
func Read(t testing.TB, name string) string {
	t.Helper()
	return read(t, filepath.Join("..", "..", "docs", name))
}

func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

var definition = regexp.MustCompile(`flags\.\w+(?:Var)?\((?:&[\w.]+, )?"(\w+)"`)

// Flags checks that every flag which the source files define is on the page, and in the help text.
func Flags(t testing.TB, page, help string, files ...string) {
	t.Helper()
	for _, file := range files {
		for _, m := range definition.FindAllStringSubmatch(read(t, file), -1) {
			if !strings.Contains(page, "`-"+m[1]) || !strings.Contains(help, "  -"+m[1]) {
				t.Errorf("-%s is not on the page, or not in the help", m[1])
			}
		}
	}
}

var (
	codeRow   = regexp.MustCompile("(?m)^\\| `(\\w+)` \\|")
	codeConst = regexp.MustCompile(`(?m)^\tCode\w+\s+Code = "(\w+)"`)
)

// Codes checks that the section Codes of a page has exactly one row for each of the codes, and that
// report.go, in the test's package, declares exactly these as constants.
func Codes[C ~string](t testing.TB, page string, codes []C) {
	t.Helper()
	_, section, _ := strings.Cut(Read(t, page), "\n## Codes\n")
	want := slices.Sorted(slices.Values(codes))
	for where, found := range map[string][][]string{
		page:        codeRow.FindAllStringSubmatch(section, -1),
		"report.go": codeConst.FindAllStringSubmatch(read(t, "report.go"), -1),
	} {
		got := make([]C, 0, len(found))
		for _, m := range found {
			got = append(got, C(m[1]))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s has %v\nwant %v", where, got, want)
		}
	}
}
