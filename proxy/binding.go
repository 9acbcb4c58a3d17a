package proxy

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"hash"
	"net/http"
	"strconv"
	"strings"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// binder makes a session's binding of what recovery.bind names. A nil binder makes empty ones, which bind to nothing.
// A value that is absent differs from one that is empty.
type binder struct {
	// key is this process's own, so that a digest tells nothing about a value that is easy to guess.
	key [sha256.Size]byte
	config.Bind
}

func newBinder(cfg config.Bind) *binder {
	if len(cfg.Headers)+len(cfg.Cookies)+len(cfg.Auth) == 0 {
		return nil
	}
	b := &binder{Bind: cfg}
	if _, err := rand.Read(b.key[:]); err != nil {
		panic(err) // crypto/rand never fails on the platforms we run on
	}
	return b
}

// handshake digests what a client's handshake has, as the upstream sees it.
func (b *binder) handshake(r engineio.Request) string {
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
		writeValues(d, cookies(r.Header, name)...)
	}
	return string(d.Sum(nil))
}

// session adds what a CONNECT packet has to the digest of its client's handshake.
func (b *binder) session(handshake string, connect []byte) session.Binding {
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

// writeValues writes the values of one name, each behind its length, so that no others are written alike.
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

// cookies are all values of a cookie. Package http would leave out those with characters that it does not like, and
// what is left out equals what is not there.
func cookies(h http.Header, name string) []string {
	var values []string
	for _, line := range h.Values("Cookie") {
		for pair := range strings.SplitSeq(line, ";") {
			if n, v, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && n == name {
				values = append(values, v)
			}
		}
	}
	return values
}
