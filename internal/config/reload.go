package config

import (
	"fmt"
	"strings"
)

// Reload is what becomes of a running configuration, c, when fresh was loaded. merged has the values of fresh that
// can change while holdfast runs, and the others of c. live are the keys of the changes that merged has,
// restart those that it lacks.
//
// The error is an *Error: what can change does not go with what cannot, and merged is c.
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
		return c, nil, restart, fmt.Errorf("what needs a restart, %s, stands in the way of the rest: %w", strings.Join(restart, ", "), err)
	}
	return merged, live, restart, nil
}
