package session

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"strings"
)

const (
	// idPrefix marks pids and offsets as ours: an application may have auth keys of these names.
	idPrefix  = "hf"
	pidBytes  = 20 // 160 bits
	pidLen    = len(idPrefix) + 27
	tagBytes  = 6
	tagLen    = 8
	offsetMin = len(idPrefix) + tagLen + 1
)

func randomText(n int) string {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		panic(err) // crypto/rand never fails on the platforms we run on
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// newPID returns a private id: whoever has it can take the session over.
func newPID() string { return idPrefix + randomText(pidBytes) }

// newTag returns what makes a session's offsets its own. It is not derived from the pid: offsets are seen
// by event handlers and logs.
func newTag() tag { return tagOf(randomText(tagBytes)) }

// tag is its tagLen characters, the first one in the lowest byte: every event needs it, so it is kept where it is at hand.
type tag uint64

func tagOf(s string) tag { return tag(binary.LittleEndian.Uint64([]byte(s))) }

func (t tag) String() string { return string(binary.LittleEndian.AppendUint64(nil, uint64(t))) }

func isBase64URL(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// IsPID reports whether s has the form of a pid that New gives.
func IsPID(s string) bool {
	return len(s) == pidLen && strings.HasPrefix(s, idPrefix) && isBase64URL(s)
}

// IsOffset reports whether s has the form of an offset that Cursor.Offset gives.
func IsOffset(s string) bool {
	_, _, ok := parseOffset(s)
	return ok
}

// parseOffset takes an offset apart: the prefix, the session's tag, and the sequence number in base 36.
func parseOffset(s string) (t tag, seq uint64, ok bool) {
	if len(s) < offsetMin || !strings.HasPrefix(s, idPrefix) {
		return 0, 0, false
	}
	text, digits := s[len(idPrefix):len(idPrefix)+tagLen], s[len(idPrefix)+tagLen:]
	seq, err := strconv.ParseUint(digits, 36, 63)
	if err != nil || seq == 0 || strconv.FormatUint(seq, 36) != digits || !isBase64URL(text) {
		return 0, 0, false
	}
	return tagOf(text), seq, true
}

// Offset is a packet's place in its session, which the client keeps and presents when it is back. The zero Offset is none.
type Offset struct {
	tag tag
	seq uint64
}

// AppendTo appends the offset as IsOffset knows it; nothing for the zero Offset.
func (o Offset) AppendTo(dst []byte) []byte {
	if o.seq == 0 {
		return dst
	}
	dst = append(dst, idPrefix...)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(o.tag))
	return appendBase36(dst, o.seq)
}

// appendBase36 is strconv.AppendUint for the base 36, of which every event has one, and with a divisor that is known here.
func appendBase36(dst []byte, n uint64) []byte {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyz"
	var b [13]byte // 36^13 > 2^64
	i := len(b)
	for n > 0 || i == len(b) {
		i--
		b[i] = digits[n%36]
		n /= 36
	}
	return append(dst, b[i:]...)
}
