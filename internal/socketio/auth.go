package socketio

import (
	"bytes"
	"encoding/json"

	"github.com/holdfast/holdfast/internal/jsonscan"
)

// AuthValues returns the values of keys in a CONNECT packet's payload, in the order of keys, and
// nil for each missing one. Values are normalized, so that equal values are equal bytes regardless
// of white space, escapes and the order of keys. If a key occurs twice, the last one counts, as it
// does for the server. A payload that is not an object has no keys.
func AuthValues(packet []byte, keys []string) [][]byte {
	values := make([][]byte, len(keys))
	h, err := ParseHeader(packet)
	if err != nil || h.Type != Connect || h.Data == len(packet) {
		return values
	}
	data := packet[h.Data:]
	_, _ = jsonscan.Scan(data, func(m jsonscan.Member) { // an error means no keys
		for i, key := range keys {
			if string(m.Key) == key {
				values[i] = canonical(data[m.Value:m.End])
			}
		}
	})
	return values
}

// canonical normalizes a JSON value. Numbers stay as they are written.
func canonical(value []byte) []byte {
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return value // impossible: Scan has validated it
	}
	out, err := json.Marshal(v) // sorts the keys
	if err != nil {
		return value // impossible: it was decoded from JSON
	}
	return out
}
