package jsonscan

import "encoding/json"

// IsSpace reports whether c is JSON white space.
func IsSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// SkipSpace returns the index of the first byte from text[i] on that is not white space, or
// len(text).
func SkipSpace(text []byte, i int) int {
	for i < len(text) && IsSpace(text[i]) {
		i++
	}
	return i
}

// StringEnd returns the index after the string literal that starts with the quote at text[i], and
// whether the literal contains escapes. If the literal does not end, end is -1.
func StringEnd(text []byte, i int) (end int, escaped bool) {
	for i++; i < len(text); i++ {
		switch text[i] {
		case '\\':
			escaped = true
			i++ // an escaped quote does not end the literal
		case '"':
			return i + 1, escaped
		}
	}
	return -1, escaped
}

// ScalarEnd returns the index after the number or word that starts at text[i].
func ScalarEnd(text []byte, i int) int {
	for i < len(text) && text[i] != ',' && text[i] != '}' && text[i] != ']' && !IsSpace(text[i]) {
		i++
	}
	return i
}

// Unquote decodes a string literal. Invalid UTF-8 becomes U+FFFD, as in encoding/json. The result
// aliases literal if that needs no decoding.
func Unquote(literal []byte) ([]byte, error) {
	inner := literal[1 : len(literal)-1]
	for _, b := range inner {
		if b == '\\' || b >= 0x80 {
			var s string
			err := json.Unmarshal(literal, &s)
			return []byte(s), err
		}
	}
	return inner, nil
}
