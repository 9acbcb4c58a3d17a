package binding

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"hash"
	"strconv"
	"strings"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/httpmsg"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// Binder computes session bindings from the values that recovery.bind names. A nil Binder returns
// empty bindings, which bind to nothing. An absent value differs from an empty one.
type Binder struct {
	// key is random for each process, so that a digest reveals nothing about a value that is easy
	// to guess.
	key [sha256.Size]byte
	config.Bind
}

func New(cfg config.Bind) *Binder {
	if len(cfg.Headers)+len(cfg.Cookies)+len(cfg.Auth) == 0 {
		return nil
	}
	b := &Binder{Bind: cfg}
	if _, err := rand.Read(b.key[:]); err != nil {
		panic(err) // crypto/rand never fails on the platforms we run on
	}
	return b
}

// Handshake returns a digest of the bound headers and cookies of a client's Handshake, as the
// upstream sees them.
func (b *Binder) Handshake(r engineio.Request) string {
	if b == nil {
		return ""
	}
	d := hmac.New(sha256.New, b.key[:])
	for _, name := range b.Headers {
		if strings.EqualFold(name, "Host") {
			writeValues(d, r.Host)
		} else {
			writeValues(d, r.Header.Values(name)...)
		}
	}
	for _, name := range b.Cookies {
		writeValues(d, httpmsg.Cookies(r.Header, name)...)
	}
	return string(d.Sum(nil))
}

// Session returns the binding of a Session: a digest of its client's handshake and of the bound
// auth values in its CONNECT packet.
func (b *Binder) Session(handshake string, connect []byte) session.Binding {
	if b == nil {
		return ""
	}
	d := hmac.New(sha256.New, b.key[:])
	writeValues(d, handshake)
	for _, v := range socketio.AuthValues(connect, b.Auth) {
		if v == nil {
			writeValues(d)
		} else {
			writeValues(d, string(v))
		}
	}
	return session.Binding(d.Sum(nil))
}

// Export returns the key of the digests, and what they are made of, for a process that takes the
// sessions over. A nil binder has none.
func (b *Binder) Export() (key, sum []byte) {
	if b == nil {
		return nil, nil
	}
	return b.key[:], sumOf(b.Bind)
}

// Restore continues with the key of the process before. It returns false if that one's bindings are
// not those of this one, because it had none, or the configuration has changed.
func (b *Binder) Restore(key, sum []byte) bool {
	if b == nil || len(key) != len(b.key) || !bytes.Equal(sum, sumOf(b.Bind)) {
		return false
	}
	copy(b.key[:], key)
	return true
}

// writeValues writes the values of one name. Each follows its length, so that different values
// never produce the same bytes.
func writeValues(d hash.Hash, values ...string) {
	text := strconv.AppendInt(nil, int64(len(values)), 10)
	for _, v := range values {
		text = append(text, ';')
		text = strconv.AppendInt(text, int64(len(v)), 10)
		text = append(text, ':')
		text = append(text, v...)
	}
	_, _ = d.Write(append(text, '\n')) // never fails
}

// sumOf identifies what bindings are made of.
func sumOf(b config.Bind) []byte {
	text, err := json.Marshal(b)
	if err != nil {
		panic(err) // lists of strings can always be marshalled
	}
	sum := sha256.Sum256(text)
	return sum[:]
}
