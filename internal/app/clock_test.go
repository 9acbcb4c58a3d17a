package app

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Deadlines and durations use the monotonic clock, which time.Now reads too, so that a jump of the
// wall clock ends no session. Code that strips that reading, or makes a time without it, is a bug
// unless it is listed here.
func TestNothingReliesOnTheWallClock(t *testing.T) {
	stripped := regexp.MustCompile(`\.(Unix|UnixMilli|UnixMicro|UnixNano|Round|Truncate|UTC|Local|In|AddDate|GobDecode|UnmarshalText|UnmarshalJSON)\(|time\.(Unix|UnixMilli|UnixMicro|Date|Parse|ParseInLocation)\(`)
	onTimes := regexp.MustCompile(`(?i)time\.(Unix|Date|Parse)\w*\(|time\.Now\(\)\.\w+\(|(now|start|started|since|last\w*|next|until|deadline|expires|parkedAt|\bt)\.(Unix\w*|Round|Truncate|UTC|Local|In|AddDate)\(`)
	allowed := map[string]string{
		"internal/engineio/dial_websocket.go": "time.Unix(1, 0)", // a deadline in the past, whatever the time is
		"internal/accept/response_linux.go":   "http.TimeFormat", // for display
		"internal/admin/status/recorder.go":   ".UTC()",          // for display
	}
	root := filepath.Join("..", "..")
	// They serve no client.
	skipped := []string{"test", "examples", "siotest", "demo", "probe", "doctor", "scripts", "jsonscan", "docs", "deploy"}
	rel := func(path string) string { r, _ := filepath.Rel(root, path); return filepath.ToSlash(r) }
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains(skipped, d.Name()):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		seen++
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for n, line := range strings.Split(string(text), "\n") {
			line, _, _ = strings.Cut(line, "//")
			if !stripped.MatchString(line) || !onTimes.MatchString(line) {
				continue
			}
			if ok := allowed[rel(path)]; ok == "" || !strings.Contains(line, ok) {
				t.Errorf("%s:%d: %s", path, n+1, strings.TrimSpace(line))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 30 {
		t.Errorf("looked at only %d files", seen)
	}
}
