package frame

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// ErrHandshake is wrapped by every error about an opening handshake.
var ErrHandshake = errors.New("frame: bad handshake")

// maxHandshakeBytes bounds a request or a response.
const maxHandshakeBytes = 16 << 10

const acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// AcceptKey is the Sec-WebSocket-Accept that answers a Sec-WebSocket-Key.
func AcceptKey(key string) string {
	sum := sha1.Sum([]byte(key + acceptGUID))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Request is an Engine.IO v4 handshake by WebSocket.
func Request(host, path, key string) string {
	return "GET " + path + "?EIO=4&transport=websocket HTTP/1.1\r\n" +
		"Host: " + host + "\r\n" +
		"Connection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + "\r\n\r\n"
}

// Response accepts the request that bore key.
func Response(key string) string {
	return "HTTP/1.1 101 Switching Protocols\r\n" +
		"Upgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + AcceptKey(key) + "\r\n\r\n"
}

// ParseRequest reads a request, and returns its key and its size in bytes. The
// size is 0 while src does not hold the whole of it.
func ParseRequest(src []byte) (key string, size int, err error) {
	first, fields, size, err := parse(src)
	if size == 0 || err != nil {
		return "", 0, err
	}
	key = fields["sec-websocket-key"]
	if !strings.HasPrefix(first, "GET ") || !strings.Contains(first, "transport=websocket") || key == "" {
		return "", 0, fmt.Errorf("%w: %q does not ask for Engine.IO by WebSocket", ErrHandshake, first)
	}
	return key, size, nil
}

// ParseResponse checks the response to the request that bore key, and returns
// its size in bytes: 0 while src does not hold the whole of it.
func ParseResponse(src []byte, key string) (size int, err error) {
	first, fields, size, err := parse(src)
	if size == 0 || err != nil {
		return 0, err
	}
	if !strings.HasPrefix(first, "HTTP/1.1 101 ") || fields["sec-websocket-accept"] != AcceptKey(key) {
		return 0, fmt.Errorf("%w: the answer is %q", ErrHandshake, first)
	}
	return size, nil
}

// parse splits a message's head. Names of fields are in lower case.
func parse(src []byte) (first string, fields map[string]string, size int, err error) {
	end := bytes.Index(src, []byte("\r\n\r\n"))
	if end < 0 {
		if len(src) > maxHandshakeBytes {
			return "", nil, 0, fmt.Errorf("%w: too long", ErrHandshake)
		}
		return "", nil, 0, nil
	}
	lines := strings.Split(string(src[:end]), "\r\n")
	fields = make(map[string]string, len(lines))
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ":")
		fields[strings.ToLower(name)] = strings.TrimSpace(value)
	}
	return lines[0], fields, end + 4, nil
}
