// Package contentcoding negotiates how the content of an HTTP response is coded (RFC 9110, 12.5.3).
package contentcoding

import (
	"net/http"
	"strconv"
	"strings"
)

// Choose returns the coding that a request's Accept-Encoding prefers among those that are offered,
// or "" if it accepts none of them. Among those with the same weight, the first one wins. Names are
// in lower case.
func Choose(request http.Header, offered ...string) string {
	accepted := strings.Join(request.Values("Accept-Encoding"), ",")
	chosen, most := "", 0.0
	for _, coding := range offered {
		if weight := weightOf(accepted, coding); weight > most {
			chosen, most = coding, weight
		}
	}
	return chosen
}

// weightOf returns a coding's weight in an Accept-Encoding field: 0 means that it is not
// acceptable.
func weightOf(accepted, coding string) float64 {
	others := 0.0
	for item := range strings.SplitSeq(accepted, ",") {
		name, params, _ := strings.Cut(item, ";")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case coding:
			return parseWeight(params)
		case "*":
			others = parseWeight(params)
		}
	}
	return others
}

// parseWeight parses "q=0.5". A weight that cannot be read is 0.
func parseWeight(params string) float64 {
	q, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(params)), "q=")
	if !ok {
		return 1
	}
	weight, err := strconv.ParseFloat(q, 64)
	if err != nil {
		return 0
	}
	return weight
}
