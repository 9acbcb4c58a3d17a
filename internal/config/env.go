package config

import (
	"regexp"
	"slices"
	"strings"
)

const (
	envPrefix = "HOLDFAST_"
	envFile   = "HOLDFAST_CONFIG" // like -config
)

// serviceLink matches the variables that Kubernetes (and Docker's legacy links)
// set in every container for a service whose name begins with "holdfast". They
// are not settings and must not keep holdfast from starting.
var serviceLink = regexp.MustCompile(
	`^HOLDFAST_([A-Z0-9_]+_)?(SERVICE_HOST=|SERVICE_PORT(_[A-Z0-9_]+)?=[0-9]+$|PORT(_[0-9]+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://|PORT_[0-9]+_(TCP|UDP|SCTP)_(ADDR|PORT|PROTO)=|NAME=/[^/]+/|ENV_[A-Za-z0-9_]+=)`)

// likeServiceLink matches the names of such variables, with any value.
var likeServiceLink = regexp.MustCompile(`_(HOST|PORT|SERVICE_PORT_[A-Z0-9_]+|PORT_[0-9]+_[A-Z0-9_]+|NAME)$`)

// hintNotOurs says what to do about a variable that is not meant for holdfast.
func hintNotOurs(name string) string {
	if likeServiceLink.MatchString(name) {
		return " If Kubernetes sets it for a service of that name, set enableServiceLinks: false in the pod's spec; " +
			"if it is meant for something else, unset it for holdfast or rename it"
	}
	return " If it is meant for something else, unset it for holdfast or rename it"
}

// applyEnviron applies the variables in environ ("NAME=value").
func (l *loader) applyEnviron(environ []string) {
	byName := make(map[string]setting)
	allowed := []string{envFile}
	for _, s := range settings(&l.config) {
		byName[s.env()] = s
		allowed = append(allowed, s.env())
	}
	for _, variable := range slices.Sorted(slices.Values(environ)) {
		name, value, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, envPrefix) || name == envFile || serviceLink.MatchString(variable) {
			continue
		}
		s, ok := byName[name]
		if !ok {
			// Users may have variables with this prefix for their own purposes, so
			// only one that looks like a typo of a setting is an error.
			if meant := misspelled(name, allowed); meant != "" {
				l.fail(name, "", "unknown variable; did you mean "+meant+"?"+hintNotOurs(name))
			}
			continue
		}
		l.apply(name, s, value)
	}
}

// misspelled returns the variable of which name looks like a misspelling, or "".
// The prefix does not count, because all have it: HOLDFAST_VERSION is not like
// HOLDFAST_EVENTS_JOIN. Of a section that exists, anything similar is meant.
func misspelled(name string, variables []string) string {
	var all, section []string
	own := strings.TrimPrefix(name, envPrefix)
	first, _, _ := strings.Cut(own, "_")
	for _, v := range variables {
		rest := strings.TrimPrefix(v, envPrefix)
		all = append(all, rest)
		if s, _, _ := strings.Cut(rest, "_"); s == first {
			section = append(section, v)
		}
	}
	if meant := nearest(own, all); meant != "" {
		return envPrefix + meant
	}
	return nearest(name, section)
}

// lookup returns the value of a variable in environ, or "".
func lookup(environ []string, name string) string {
	for _, variable := range slices.Backward(environ) {
		if value, ok := strings.CutPrefix(variable, name+"="); ok {
			return value
		}
	}
	return ""
}
