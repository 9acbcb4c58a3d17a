package courier

import (
	"fmt"
	"hash/crc32"
)

// socketPrefix begins the names of listeners in the store.
const socketPrefix = "holdfast-socket-"

// SocketPrefix begins the names of listeners of a kind.
func SocketPrefix(kind string) string { return socketPrefix + kind + "-" }

// SocketName returns a listener's name in the store. Addresses have characters that names must not
// have, so the name has a checksum instead.
func SocketName(kind, address string) string {
	return SocketPrefix(kind) + fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(address)))
}
