package socketio

import (
	"bytes"
	"encoding/json"

	"github.com/holdfast/holdfast/internal/jsonscan"
)

// AuthValues returns the values that a CONNECT packet's payload has for keys, in their order, nil where it has none.
// Each is in a form of its own that does not depend on white space, escapes, or the order of the keys in
// objects, so that equal values are equal bytes. Of a key that comes twice the last counts, as for the server. A payload
// that is no object has no keys.
func AuthValues(packet []byte, keys []string) [][]byte {
	values := make([][]byte, len(keys))
	h, err := ParseHeader(packet)
	if err != nil || h.Type != Connect || h.Data == len(packet) {
		return values
	}
	data := packet[h.Data:]
	_, _ = jsonscan.Scan(data, func(m jsonscan.Member) { // else it has no keys
		for i, key := range keys {
			if string(m.Key) == key {
				values[i] = canonical(data[m.Value:m.End])
			}
		}
	})
	return values
}

// canonical is a JSON value in its own form; numbers stay as they are written.
func canonical(value []byte) []byte {
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return value // it was scanned before
	}
	out, err := json.Marshal(v) // sorts the keys
	if err != nil {
		return value // what was decoded can be encoded
	}
	return out
}
