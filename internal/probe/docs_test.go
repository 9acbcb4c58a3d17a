package probe

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/siotest/pagetest"
)

// docs/probe.md has exactly one row for every code.
func TestCodesOnProbePage(t *testing.T) {
	_, section, _ := strings.Cut(pagetest.Read(t, "probe.md"), "\n## Codes\n")
	var documented []Code
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllStringSubmatch(section, -1) {
		documented = append(documented, Code(m[1]))
	}
	slices.Sort(documented)
	if want := slices.Sorted(slices.Values(Codes())); !slices.Equal(documented, want) {
		t.Errorf("got  %v\nwant %v", documented, want)
	}
}

// Codes returns every constant.
func TestCodesAreComplete(t *testing.T) {
	source, err := os.ReadFile("report.go")
	if err != nil {
		t.Fatal(err)
	}
	constants := regexp.MustCompile(`(?m)^\tCode\w+\s+Code = "(\w+)"`).FindAllStringSubmatch(string(source), -1)
	for _, m := range constants {
		if !slices.Contains(Codes(), Code(m[1])) {
			t.Errorf("Codes() lacks %s", m[1])
		}
	}
	if len(constants) != len(Codes()) {
		t.Errorf("%d constants, %d codes", len(constants), len(Codes()))
	}
}

// docs/troubleshooting.md says what to do about every failure's code, and every reason for a failed
// recovery.
func TestTroubleshootingPage(t *testing.T) {
	text := pagetest.Read(t, "troubleshooting.md")
	harmless := []Code{CodeRecovered, CodeAllowed, CodeNotAsked, CodeNotOffered}
	for _, c := range Codes() {
		if !slices.Contains(harmless, c) && !strings.Contains(text, "`"+string(c)+"`") {
			t.Errorf("the page does not mention the probe's %s", c)
		}
	}
	_, section, _ := strings.Cut(text, "\n## Not recovered\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, r := range reason.Failed() {
		if !strings.Contains(section, "\n| `"+string(r)+"` |") {
			t.Errorf("no row for the reason %s", r)
		}
	}
}

// Every flag is on the page and in the help.
func TestFlagsOnProbePage(t *testing.T) {
	var help strings.Builder
	if err := Usage(&help); err != nil {
		t.Fatal(err)
	}
	pagetest.Flags(t, pagetest.Read(t, "probe.md"), help.String(), "options.go", "client.go")
}
