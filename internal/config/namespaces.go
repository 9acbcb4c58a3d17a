package config

import (
	"slices"
	"strconv"
	"strings"
)

// Filter returns what reports whether sessions of a namespace can be recovered, for valid patterns.
func (n Namespaces) Filter() func(namespace string) bool {
	include, exclude := slices.Clone(n.Include), slices.Clone(n.Exclude)
	return func(namespace string) bool {
		matches := func(pattern string) bool { return matchGlob(pattern, namespace) }
		return slices.ContainsFunc(include, matches) && !slices.ContainsFunc(exclude, matches)
	}
}

// checkNamespacePattern says what is allowed, if not this.
func checkNamespacePattern(text string) (allowed string) {
	const forms = "a namespace, such as / or /admin, or a pattern, such as /game-* or *"
	switch {
	case strings.Contains(text, ","):
		return forms + "; no namespace has a comma in its name, and each pattern is an item of the list"
	case !printableName(text):
		return forms
	case !strings.HasPrefix(text, "/") && !strings.HasPrefix(text, "*"):
		return forms + "; it begins with a slash: " + strconv.Quote("/"+text)
	}
	return ""
}
