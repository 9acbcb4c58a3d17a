package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// placeholder stands in JSON where an attachment belongs.
type placeholder struct {
	Placeholder bool `json:"_placeholder"`
	Num         int  `json:"num"`
}

// Marshal encodes arguments as the JSON array of a packet. A []byte, at the
// top level or inside []any and map[string]any, becomes an attachment.
func Marshal(args []any) (data json.RawMessage, attachments [][]byte, err error) {
	if slices.ContainsFunc(args, hasBinary) {
		args = extract(args, &attachments).([]any)
	}
	if args == nil {
		args = []any{}
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // as JSON.stringify, which escapes no < and &
	if err := enc.Encode(args); err != nil {
		return nil, nil, fmt.Errorf("wire: encoding arguments: %w", err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), attachments, nil
}

func hasBinary(v any) bool {
	switch v := v.(type) {
	case []byte:
		return true
	case []any:
		return slices.ContainsFunc(v, hasBinary)
	case map[string]any:
		for _, e := range v {
			if hasBinary(e) {
				return true
			}
		}
	}
	return false
}

// extract returns a copy of v with placeholders for what it appends to
// attachments.
func extract(v any, attachments *[][]byte) any {
	switch v := v.(type) {
	case []byte:
		*attachments = append(*attachments, v)
		return placeholder{true, len(*attachments) - 1}
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = extract(e, attachments)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		// In the order in which encoding/json writes the keys.
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out[k] = extract(v[k], attachments)
		}
		return out
	default:
		return v
	}
}

// Resolve puts attachments in the place of their placeholders. An argument
// that is one becomes a []byte; one that holds one is decoded into []any,
// map[string]any and json.Number with []byte inside; all others stay
// json.RawMessage. What it returns can be given to Marshal again.
func Resolve(args []json.RawMessage, attachments [][]byte) ([]any, error) {
	out := make([]any, len(args))
	for i, arg := range args {
		out[i] = arg
		if len(attachments) == 0 || !bytes.Contains(arg, []byte(`"_placeholder"`)) {
			continue
		}
		dec := json.NewDecoder(bytes.NewReader(arg))
		dec.UseNumber()
		var tree any
		if err := dec.Decode(&tree); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		var err error
		if out[i], err = fill(tree, attachments); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func fill(v any, attachments [][]byte) (any, error) {
	var err error
	switch v := v.(type) {
	case []any:
		for i := range v {
			if v[i], err = fill(v[i], attachments); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		if v["_placeholder"] == true {
			num, ok := v["num"].(json.Number)
			if !ok {
				return nil, fmt.Errorf("%w: placeholder without a number", ErrMalformed)
			}
			n, err := num.Int64()
			if err != nil || n < 0 || n >= int64(len(attachments)) {
				return nil, fmt.Errorf("%w: placeholder %s of %d attachments", ErrMalformed, num, len(attachments))
			}
			return attachments[n], nil
		}
		for k := range v {
			if v[k], err = fill(v[k], attachments); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}
