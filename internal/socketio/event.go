package socketio

import (
	"encoding/json"

	"github.com/holdfast/holdfast/internal/jsonscan"
)

// EventName returns the name of an event: its first argument. data is the payload of an EVENT or
// BINARY_EVENT packet (packet[Header.Data:]), an array. A string is returned without JSON's
// escapes, and a number as it is written. The rest of data is not read. ok is false if the first
// argument is neither, or malformed.
//
// The name aliases data unless the string has escapes. Servers in Python write escapes for
// everything that is not ASCII, and clients can write them for any character.
func EventName(data []byte) (name []byte, ok bool) {
	if len(data) == 0 || data[0] != '[' {
		return nil, false
	}
	i := jsonscan.SkipSpace(data, 1)
	if i == len(data) {
		return nil, false
	}
	if data[i] != '"' {
		return numberName(data[i:])
	}
	end, escaped := jsonscan.StringEnd(data, i)
	switch {
	case end < 0:
		return nil, false
	case escaped:
		name, err := jsonscan.Unquote(data[i:end])
		return name, err == nil
	default:
		return data[i+1 : end-1], true // even if it is not valid UTF-8
	}
}

func numberName(data []byte) ([]byte, bool) {
	end := jsonscan.ScalarEnd(data, 0)
	var n json.Number
	if end == 0 || json.Unmarshal(data[:end], &n) != nil || n == "" {
		return nil, false
	}
	return data[:end], true
}
