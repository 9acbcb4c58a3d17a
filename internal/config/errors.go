package config

import (
	"errors"
	"strconv"
	"strings"
)

// ErrInvalid is wrapped by every error that this package returns for a
// configuration or command line that cannot be used.
var ErrInvalid = errors.New("config: invalid")

// Problem is one mistake in a configuration.
type Problem struct {
	// Source is where the value came from: "holdfast.yaml:12",
	// "HOLDFAST_LISTEN", "-listen", or "" for a default.
	Source string
	// Key is the setting's dotted path, such as recovery.buffer.window, or "" if
	// the problem is not about one setting.
	Key string
	// Message says what was found and what is allowed.
	Message string
}

// String returns the problem as one line.
func (p Problem) String() string {
	parts := make([]string, 0, 3)
	for _, s := range []string{p.Source, p.Key, p.Message} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ": ")
}

// Error is every Problem found in a configuration, at least one. It wraps
// ErrInvalid.
type Error struct{ Problems []Problem }

// Error returns one line per problem, after a heading if there are several.
func (e *Error) Error() string {
	if len(e.Problems) == 1 {
		return "invalid configuration: " + e.Problems[0].String()
	}
	var b strings.Builder
	b.WriteString("invalid configuration, " + strconv.Itoa(len(e.Problems)) + " problems:")
	for _, p := range e.Problems {
		b.WriteString("\n  " + p.String())
	}
	return b.String()
}

// Unwrap returns ErrInvalid.
func (e *Error) Unwrap() error { return ErrInvalid }

// asError returns nil if there are no problems.
func asError(problems []Problem) error {
	if len(problems) == 0 {
		return nil
	}
	return &Error{Problems: problems}
}

// Sources maps the dotted key of each setting that is not a default to where it
// came from: "holdfast.yaml:12", "HOLDFAST_LISTEN" or "-listen".
type Sources map[string]string

// Invalid returns an *Error for a setting whose value turned out to be unusable
// after it was loaded, such as a port in use. It reads like Load's own errors.
func (s Sources) Invalid(key, found, allowed string) error {
	return &Error{Problems: []Problem{s.problem(key, found, allowed)}}
}

func (s Sources) problem(key, found, allowed string) Problem {
	p := Problem{Source: s[key], Key: key, Message: "found " + strconv.Quote(found)}
	if p.Source == "" {
		p.Message += " (the default)"
	}
	p.Message += "; allowed: " + allowed
	return p
}
