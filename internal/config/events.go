package config

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// EventPattern is a parsed item of Events.Volatile or Events.Latest.
type EventPattern struct{ namespace, event string }

// ParseEventPatterns parses patterns, and skips invalid ones.
func ParseEventPatterns(texts []string) []EventPattern {
	patterns := make([]EventPattern, 0, len(texts))
	for _, text := range texts {
		if p, problem := parseEventPattern(text); problem == "" {
			patterns = append(patterns, p)
		}
	}
	return patterns
}

// Match reports whether the pattern matches an event in a namespace.
func (p EventPattern) Match(namespace string, event []byte) bool {
	return matchGlob(p.event, event) && matchGlob(p.namespace, namespace)
}

// parseEventPattern parses "EVENT" or "NAMESPACE EVENT". If text is neither,
// problem says what is allowed.
func parseEventPattern(text string) (p EventPattern, problem string) {
	first, rest, two := strings.Cut(text, " ")
	switch {
	case two && (first == "*" || strings.HasPrefix(first, "/")):
		p = EventPattern{first, rest}
	case strings.HasPrefix(text, "/"):
		return p, "an event after the namespace, such as " + strconv.Quote(text+" position") +
			"; an event whose name begins with a slash is " + strconv.Quote("* "+text)
	default:
		p = EventPattern{"*", text}
	}
	if !printableName(p.event) {
		return p, `an event's name, such as cursor, typing* or "/game position"`
	}
	return p, ""
}

// printableName reports whether s can be the name of an event or a namespace. It rejects obvious
// mistakes, such as a name with spaces around it.
func printableName(s string) bool {
	return s != "" && utf8.ValidString(s) && strings.TrimSpace(s) == s &&
		!strings.ContainsFunc(s, func(r rune) bool { return r == utf8.RuneError || unicode.IsControl(r) })
}

// matchGlob reports whether s matches pattern, in which * stands for any text,
// including none.
func matchGlob[T string | []byte](pattern string, s T) bool {
	star, resume := -1, 0 // the last star, and where in s it was last tried
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			resume++
			p, i = star+1, resume
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// validEventName reports whether holdfast may give an event this name. Reserved
// names are excluded: clients refuse to send socket.io's own events, but servers
// would call handlers for them. Numbers are excluded because they have many
// spellings, and a client could forge the event with another one.
func validEventName(name string) bool {
	_, notNumber := strconv.ParseFloat(name, 64)
	switch name {
	case "connect", "connect_error", "connection", "disconnect", "disconnecting", "newListener", "removeListener", "error":
		return false
	}
	return printableName(name) && notNumber != nil
}
