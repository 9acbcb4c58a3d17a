package config

import (
	"fmt"
	"strings"
)

// Reload merges fresh, a newly loaded configuration, into c, the running one. merged has the
// settings of fresh that can change while holdfast runs, and those of c for all others. live lists
// the changed keys that merged includes, and restart those that need a restart.
//
// If the merged settings conflict, Reload returns c and an *Error.
func (c Config) Reload(fresh Config) (merged Config, live, restart []string, err error) {
	merged = fresh
	running, to := settings(&c), settings(&merged)
	for i, s := range running {
		switch {
		case s.format() == to[i].format():
		case s.live:
			live = append(live, s.key)
		default:
			restart = append(restart, s.key)
			to[i].value.Set(s.value)
		}
	}
	if err := merged.Validate(); err != nil {
		return c, nil, restart, fmt.Errorf("the other changes conflict with settings that need a restart (%s): %w", strings.Join(restart, ", "), err)
	}
	return merged, live, restart, nil
}
