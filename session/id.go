package session

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"strings"
)

const (
	// idPrefix tells holdfast's pids and offsets from an application's auth keys of the same names.
	idPrefix  = "hf"
	pidBytes  = 20 // 160 bits
	pidLen    = len(idPrefix) + 27
	ownerLen  = 8 // in a pid that names its replica
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

// newPID returns a private id. Whoever has it can take the session over. owner is the id of this
// replica, or empty if there is only one.
func newPID(owner string) string { return idPrefix + owner + randomText(pidBytes) }

// OwnerOf returns the id of the replica that has the session with this pid. It is empty if the pid
// names none, because it was issued by a process that is its own only replica.
func OwnerOf(pid string) string {
	if len(pid) != pidLen+ownerLen {
		return ""
	}
	return pid[len(idPrefix) : len(idPrefix)+ownerLen]
}

// newTag returns the part of a session's offsets that tells them from other sessions'. It is not
// derived from the pid, because event handlers and logs see offsets.
func newTag() tag { return tagOf(randomText(tagBytes)) }

// tag is tagLen characters, the first one in the lowest byte. It is a number because every event
// needs it: a string would be one more cache line.
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

// IsPID reports whether s has the form of a pid.
func IsPID(s string) bool {
	return (len(s) == pidLen || len(s) == pidLen+ownerLen) && strings.HasPrefix(s, idPrefix) && isBase64URL(s)
}

// IsOffset reports whether s has the form of an offset.
func IsOffset(s string) bool {
	_, _, ok := parseOffset(s)
	return ok
}

// parseOffset parses an offset: the prefix, the session's tag, and the sequence number in base 36.
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

// Offset is a packet's place in its session. The client keeps the last one and presents it when it
// returns. The zero Offset is none.
type Offset struct {
	tag tag
	seq uint64
}

// AppendTo appends the text of the offset. The zero Offset has none.
func (o Offset) AppendTo(dst []byte) []byte {
	if o.seq == 0 {
		return dst
	}
	dst = append(dst, idPrefix...)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(o.tag))
	return appendBase36(dst, o.seq)
}

// appendBase36 is strconv.AppendUint for base 36. A constant divisor makes it faster.
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
