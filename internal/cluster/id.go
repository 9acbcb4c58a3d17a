package cluster

import (
	"crypto/rand"
	"encoding/base64"
	"strings"
)

// IDLen is the length of a replica's id in characters.
const IDLen = 8

const idBytes = 6 // 48 bits

// NewID returns a random id for a replica.
func NewID() string {
	var b [idBytes]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // crypto/rand never fails on the platforms we run on
	}
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// ValidID reports whether s has the form of a replica's id.
func ValidID(s string) bool {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return len(s) == IDLen && strings.Trim(s, letters) == ""
}
