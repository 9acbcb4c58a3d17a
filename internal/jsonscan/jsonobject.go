// Package jsonscan finds the members of a JSON object without decoding their values: each connection brings a few
// small objects of which a proxy wants one key, or the place of it.
package jsonscan

import (
	"encoding/json"
	"errors"
)

// ErrMalformed says that a text is not one JSON object.
var ErrMalformed = errors.New("not a JSON object")

// Member is one `"key": value` by its place in the text.
type Member struct {
	Key        []byte // decoded; valid as long as the text is
	Start, End int    // of key and value together
	Value      int    // where the value starts; it ends at End
}

// String returns the value if it is a string, decoded.
func (m Member) String(text []byte) (s string, ok bool) {
	if text[m.Value] != '"' {
		return "", false
	}
	b, err := unquote(text[m.Value:m.End])
	return string(b), err == nil
}

// Scan calls fn for each member of the object that text is, in order, and returns how many there are. White space may
// surround it. Errors are ErrMalformed, before any call of fn.
func Scan(text []byte, fn func(Member)) (count int, err error) {
	i := space(text, 0)
	if !json.Valid(text) || text[i] != '{' {
		return 0, ErrMalformed
	}
	// The text is valid, so what follows need not look for errors.
	for i = space(text, i+1); text[i] != '}'; count++ {
		if text[i] == ',' {
			i = space(text, i+1)
		}
		m := Member{Start: i}
		end := stringEnd(text, i)
		if m.Key, err = unquote(text[i:end]); err != nil {
			return 0, ErrMalformed
		}
		m.Value = space(text, space(text, end)+1) // behind the colon
		m.End = valueEnd(text, m.Value)
		fn(m)
		i = space(text, m.End)
	}
	return count, nil
}

// space passes over white space.
func space(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\t' || text[i] == '\n' || text[i] == '\r') {
		i++
	}
	return i
}

// stringEnd is where the string that starts at i ends.
func stringEnd(text []byte, i int) int {
	for i++; text[i] != '"'; i++ {
		if text[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// valueEnd is where the value that starts at i ends.
func valueEnd(text []byte, i int) int {
	depth := 0
	for {
		switch text[i] {
		case '"':
			i = stringEnd(text, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		case ',', ':', ' ', '\t', '\n', '\r': // inside of an object or array
			i++
			continue
		default: // a number or word
			for i < len(text) && !ends(text[i]) {
				i++
			}
		}
		if depth == 0 {
			return i
		}
	}
}

// ends reports whether a number or word ends ahead of b.
func ends(b byte) bool {
	switch b {
	case ',', '}', ']', ' ', '\t', '\n', '\r':
		return true
	}
	return false
}

// unquote decodes a string literal. One without escapes is not copied.
func unquote(literal []byte) ([]byte, error) {
	inner := literal[1 : len(literal)-1]
	for _, b := range inner {
		if b == '\\' || b >= 0x80 { // json makes valid UTF-8 of it
			var s string
			err := json.Unmarshal(literal, &s)
			return []byte(s), err
		}
	}
	return inner, nil
}
