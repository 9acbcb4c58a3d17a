package socketio

import "encoding/json"

// EventName reads the name of an event: the first of its arguments, of which data, the payload of an EVENT or
// BINARY_EVENT packet (packet[Header.Data:]), is the array. It is a string, without JSON's escapes; or a number, as it
// is written. Nothing behind it is read. ok is false if there is neither, or the JSON is broken so far.
//
// The name aliases data unless the string has escapes, which servers write for what is not ASCII (Python) and clients
// can write for anything.
func EventName(data []byte) (name []byte, ok bool) {
	if len(data) == 0 || data[0] != '[' {
		return nil, false
	}
	i := 1
	for i < len(data) && isSpace(data[i]) {
		i++
	}
	if i == len(data) {
		return nil, false
	}
	if data[i] != '"' {
		return numberName(data[i:])
	}
	escaped := false
	for end := i + 1; end < len(data); end++ {
		switch data[end] {
		case '\\':
			escaped = true
			end++ // a quote behind it ends nothing
		case '"':
			if escaped {
				return unescape(data[i : end+1])
			}
			return data[i+1 : end], true
		}
	}
	return nil, false
}

// unescape decodes a string with its quotes.
func unescape(quoted []byte) ([]byte, bool) {
	var s string
	if json.Unmarshal(quoted, &s) != nil {
		return nil, false
	}
	return []byte(s), true
}

func numberName(data []byte) ([]byte, bool) {
	end := 0
	for end < len(data) && data[end] != ',' && data[end] != ']' && !isSpace(data[end]) {
		end++
	}
	var n json.Number
	if end == 0 || json.Unmarshal(data[:end], &n) != nil || n == "" {
		return nil, false
	}
	return data[:end], true
}
