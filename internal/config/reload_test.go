package config

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestReload(t *testing.T) {
	tests := []struct {
		name          string
		change        func(c *Config)
		live, restart []string
	}{
		{"nothing", func(*Config) {}, nil, nil},
		{"what can change", func(c *Config) {
			c.Recovery.MaxDisconnectionDuration = time.Minute
			c.TrustedProxies = []string{"10.0.0.0/8"}
		}, []string{"recovery.max_disconnection_duration", "trusted_proxies"}, nil},
		{"servers", func(c *Config) { c.Upstream.URL = URLs{"http://a", "http://b"} }, []string{"upstream.url"}, nil},
		{"what cannot", func(c *Config) { c.Listen = ":1"; c.EngineIO.Paths = []string{"/a/"} }, nil, []string{"listen", "engineio.paths"}},
		{"both", func(c *Config) { c.Log = Log{"debug", "json"} }, []string{"log.level"}, []string{"log.format"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			running, fresh := Default(), Default()
			tt.change(&fresh)
			merged, live, restart, err := running.Reload(fresh)
			if err != nil || !slices.Equal(live, tt.live) || !slices.Equal(restart, tt.restart) {
				t.Errorf("live %v, restart %v, %v; want %v, %v", live, restart, err, tt.live, tt.restart)
			}
			from, got, want := settings(&running), settings(&merged), settings(&fresh)
			for i, s := range got {
				if slices.Contains(tt.restart, s.key) {
					want[i] = from[i]
				}
				if !reflect.DeepEqual(s.value.Interface(), want[i].value.Interface()) {
					t.Errorf("%s = %v, want %v", s.key, s.value, want[i].value)
				}
			}
		})
	}
}

// Parts of two valid configurations may not fit together.
func TestReloadOfWhatDoesNotFit(t *testing.T) {
	running, fresh := Default(), Default()
	running.Recovery.Buffer.TotalBytes = 2 * MiB
	fresh.Recovery.Buffer.TotalBytes = 8 * MiB
	fresh.Recovery.Buffer.Window = 4 * MiB
	merged, live, _, err := running.Reload(fresh)
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "recovery.buffer.total_bytes") {
		t.Errorf("%v, want it to name the key", err)
	}
	if !reflect.DeepEqual(merged, running) || len(live) != 0 {
		t.Error("the running configuration did not stay as it is")
	}
}
