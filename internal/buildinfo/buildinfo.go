package buildinfo

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// Set at link time when a release is built.
var (
	version = "dev"
	commit  = "" // hexadecimal, in full
	date    = "" // the commit's, RFC 3339 in UTC, so that the same commit makes the same bytes
)

// Info describes one build.
type Info struct {
	Version  string // of the release, such as v1.2.3, or "dev"
	Commit   string // "" if unknown
	Date     string // of the commit, RFC 3339; "" if unknown
	Modified bool   // the sources differed from the commit
	Go       string // such as go1.26.0
	Platform string // such as linux/amd64
}

// Read returns what is known of this binary.
func Read() Info {
	recorded, _ := debug.ReadBuildInfo()
	return merge(Info{Version: version, Commit: commit, Date: date}, recorded)
}

// merge fills what info lacks from what the Go tool recorded, which may be nil.
func merge(info Info, recorded *debug.BuildInfo) Info {
	info.Go = runtime.Version()
	info.Platform = runtime.GOOS + "/" + runtime.GOARCH
	if recorded == nil {
		return info
	}
	if v := recorded.Main.Version; info.Version == "dev" && v != "" && v != "(devel)" {
		info.Version = v
	}
	if info.Commit != "" {
		return info
	}
	for _, s := range recorded.Settings {
		switch s.Key {
		case "vcs.revision":
			info.Commit = s.Value
		case "vcs.time":
			info.Date = s.Value
		case "vcs.modified":
			info.Modified = s.Value == "true"
		}
	}
	return info
}

// String is one line, without the program's name: v1.2.3 (commit 0123abcd, 2026-01-02T03:04:05Z,
// go1.26.0 linux/amd64).
func (i Info) String() string {
	var parts []string
	if i.Commit != "" {
		c := "commit " + i.Commit
		if i.Modified {
			c += " with changes"
		}
		parts = append(parts, c)
	}
	if i.Date != "" {
		parts = append(parts, i.Date)
	}
	parts = append(parts, i.Go+" "+i.Platform)
	return fmt.Sprintf("%s (%s)", i.Version, strings.Join(parts, ", "))
}
