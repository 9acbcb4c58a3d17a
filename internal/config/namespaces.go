package config

import (
	"slices"
	"strconv"
	"strings"
)

// Filter returns a function that reports whether sessions of a namespace can be
// recovered. The patterns must be valid.
func (n Namespaces) Filter() func(namespace string) bool {
	include, exclude := slices.Clone(n.Include), slices.Clone(n.Exclude)
	return func(namespace string) bool {
		matches := func(pattern string) bool { return matchGlob(pattern, namespace) }
		return slices.ContainsFunc(include, matches) && !slices.ContainsFunc(exclude, matches)
	}
}

// checkNamespacePattern returns "" for a valid pattern, and otherwise what is allowed.
func checkNamespacePattern(text string) (allowed string) {
	const forms = "a namespace, such as / or /admin, or a pattern, such as /game-* or *"
	switch {
	case strings.Contains(text, ","):
		return forms + "; a namespace cannot contain a comma, and each pattern is a separate list item"
	case !printableName(text):
		return forms
	case !strings.HasPrefix(text, "/") && !strings.HasPrefix(text, "*"):
		return forms + "; it must begin with a slash: " + strconv.Quote("/"+text)
	}
	return ""
}
