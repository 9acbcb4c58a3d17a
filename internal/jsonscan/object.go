package jsonscan

import (
	"encoding/json"
	"errors"
)

// ErrMalformed means that a text is not one JSON object.
var ErrMalformed = errors.New("not a JSON object")

// Member is one `"key": value` of an object, by its position in the text.
type Member struct {
	Key        []byte // decoded; may alias the text
	Start, End int    // of key and value together
	Value      int    // where the value starts; it ends at End
}

// String returns the decoded value if it is a string.
func (m Member) String(text []byte) (s string, ok bool) {
	if text[m.Value] != '"' {
		return "", false
	}
	b, err := Unquote(text[m.Value:m.End])
	return string(b), err == nil
}

// Scan calls fn for each member of the object in text, in order, and returns their number. White
// space around the object is allowed. If text is not an object, Scan returns ErrMalformed and does
// not call fn.
func Scan(text []byte, fn func(Member)) (count int, err error) {
	i := SkipSpace(text, 0)
	if !json.Valid(text) || text[i] != '{' {
		return 0, ErrMalformed
	}
	// The text is valid, so the rest need not check for errors.
	for i = SkipSpace(text, i+1); text[i] != '}'; count++ {
		if text[i] == ',' {
			i = SkipSpace(text, i+1)
		}
		m := Member{Start: i}
		end, _ := StringEnd(text, i)
		if m.Key, err = Unquote(text[i:end]); err != nil {
			return 0, ErrMalformed
		}
		m.Value = SkipSpace(text, SkipSpace(text, end)+1) // after the colon
		m.End = valueEnd(text, m.Value)
		fn(m)
		i = SkipSpace(text, m.End)
	}
	return count, nil
}

// valueEnd returns the index after the value that starts at text[i]. The text must be valid.
func valueEnd(text []byte, i int) int {
	depth := 0
	for {
		switch text[i] {
		case '"':
			i, _ = StringEnd(text, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		case ',', ':', ' ', '\t', '\n', '\r': // inside an object or array
			i++
			continue
		default:
			i = ScalarEnd(text, i)
		}
		if depth == 0 {
			return i
		}
	}
}
