package probe

import (
	"slices"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/siotest/pagetest"
)

func TestCodesOnProbePage(t *testing.T) {
	pagetest.Codes(t, "probe.md", Codes())
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
