package buildinfo

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestInfo(t *testing.T) {
	suffix := runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH + ")"
	recorded := &debug.BuildInfo{
		Main: debug.Module{Version: "v0.0.0-20260102030405-0123456789ab"},
		Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "0123456789abcdef"},
			{Key: "vcs.time", Value: "2026-01-02T03:04:05Z"},
			{Key: "vcs.modified", Value: "true"},
		},
	}
	for _, tt := range []struct {
		name     string
		linked   Info
		recorded *debug.BuildInfo
		want     string
	}{
		{"nothing is known", Info{Version: "dev"}, nil, "dev (" + suffix},
		{"a release", Info{Version: "v1.2.3", Commit: "fedc", Date: "2025-12-31T00:00:00Z"}, recorded, "v1.2.3 (commit fedc, 2025-12-31T00:00:00Z, " + suffix},
		{"go build", Info{Version: "dev"}, recorded, "v0.0.0-20260102030405-0123456789ab (commit 0123456789abcdef with changes, 2026-01-02T03:04:05Z, " + suffix},
		{"go install of a version", Info{Version: "dev"}, &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, "v1.2.3 (" + suffix},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := merge(tt.linked, tt.recorded).String(); got != tt.want {
				t.Errorf("got %s\nwant %s", got, tt.want)
			}
		})
	}
}
