//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// The events of the benchmark, by their one-letter names: each has its number
// and a payload as arguments.
const (
	echoEvent      = 'e' // from a client; the server returns it
	broadcastEvent = 'b' // from the server to all
)

// payloadOf returns a payload of n bytes.
func payloadOf(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = 'a' + byte(i*i+i/26)%26
	}
	return p
}

// appendEvent appends a Socket.IO EVENT in an Engine.IO message.
func appendEvent(dst []byte, name byte, number uint64, payload []byte) []byte {
	dst = append(dst, '4', '2', '[', '"', name, '"', ',')
	dst = strconv.AppendUint(dst, number, 10)
	dst = append(dst, ',', '"')
	dst = append(dst, payload...)
	return append(dst, '"', ']')
}

// errEvent is wrapped if an event differs from what was sent.
var errEvent = errors.New("an event was altered")

// parseEvent parses an EVENT with the given name and payload, without its packet
// type. Offset, the last argument, is empty if there is none.
func parseEvent(src []byte, name byte, payload []byte) (number uint64, offset []byte, err error) {
	rest, ok := bytes.CutPrefix(src, []byte{'[', '"', name, '"', ','})
	digits := 0
	for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
		number = number*10 + uint64(rest[digits]-'0')
		digits++
	}
	if ok = ok && digits > 0; ok {
		rest, ok = bytes.CutPrefix(rest[digits:], []byte(`,"`))
	}
	if ok {
		rest, ok = bytes.CutPrefix(rest, payload)
	}
	if ok && string(rest) == `"]` {
		return number, nil, nil
	}
	if ok {
		offset, ok = bytes.CutPrefix(rest, []byte(`","`))
	}
	if ok {
		offset, ok = bytes.CutSuffix(offset, []byte(`"]`))
	}
	if !ok || len(offset) == 0 || bytes.ContainsAny(offset, `",\`) {
		return 0, nil, fmt.Errorf("%w: %.60q", errEvent, src)
	}
	return number, offset, nil
}
