package config

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestEventPattern(t *testing.T) {
	tests := []struct {
		pattern, namespace, event string
		want                      bool
	}{
		{"cursor", "/", "cursor", true},
		{"cursor", "/game", "cursor", true},
		{"cursor", "/", "cursors", false},
		{"cursor", "/", "Cursor", false},
		{"cursor", "/", "", false},
		{"typing*", "/", "typing", true},
		{"typing*", "/", "typing:start", true},
		{"typing*", "/", "is typing", false},
		{"*:move", "/", "player:move", true},
		{"a*b*c", "/", "abbc", true},
		{"a*b*c", "/", "acb", false},
		{"*", "/", "", true},
		{"größe", "/", "größe", true},
		{"user typing", "/", "user typing", true},
		{"/game position", "/game", "position", true},
		{"/game position", "/", "position", false},
		{"/game position", "/game2", "position", false},
		{"/game-* position*", "/game-17", "position2", true},
		{"/ cursor", "/", "cursor", true},
		{"/ cursor", "/game", "cursor", false},
		{"* /odd", "/game", "/odd", true},
		{"/game user typing", "/game", "user typing", true},
	}
	for _, tt := range tests {
		p, problem := parseEventPattern(tt.pattern)
		if got := p.Match(tt.namespace, []byte(tt.event)); problem != "" || got != tt.want {
			t.Errorf("%q matches %q in %s: %v, %q; want %v", tt.pattern, tt.event, tt.namespace, got, problem, tt.want)
		}
	}
}

func TestEventPatternProblems(t *testing.T) {
	for text, want := range map[string]string{
		"":           "an event's name",
		" ":          "an event's name",
		" cursor":    "an event's name",
		"cursor ":    "an event's name",
		"/game":      `an event after the namespace, such as "/game position"; an event whose name begins with a slash is "* /game"`,
		"/game ":     "an event's name",
		"* ":         "an event's name",
		"a\x00b":     "an event's name",
		"a\ufffdb":   "an event's name",
		"not\xffutf": "an event's name",
	} {
		if _, problem := parseEventPattern(text); !strings.HasPrefix(problem, want) {
			t.Errorf("%q: %q, want %q", text, problem, want)
		}
	}
}

func TestMatchGlob(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[ab*]{0,8}`).Draw(t, "pattern")
		s := rapid.StringMatching(`[ab]{0,10}`).Draw(t, "text")
		want := regexp.MustCompile(`^` + strings.ReplaceAll(pattern, "*", ".*") + `$`).MatchString(s)
		if got := matchGlob(pattern, s); got != want {
			t.Errorf("matchGlob(%q, %q) = %v, want %v", pattern, s, got, want)
		}
	})
}
