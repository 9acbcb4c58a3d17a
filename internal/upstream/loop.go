package upstream

import (
	"errors"
	"net"
	"net/netip"
	"strings"

	"github.com/holdfast/holdfast/internal/config"
)

var errOwnListener = errors.New("this is holdfast's own listener: upstream.url must be the server's address")

// mayLoop reports whether a server listens on the same port as holdfast. Connections to other servers
// need no check.
func mayLoop(listen string, t target) bool {
	network, address := config.SplitListen(listen)
	_, port, err := net.SplitHostPort(address)
	_, serverPort, serverErr := net.SplitHostPort(t.address)
	return network == t.network && err == nil && serverErr == nil && port == serverPort
}

// leadsBack reports whether conn ends at holdfast's own listener, which is at listen and has the same
// port. It compares the addresses of the connection, because any name may resolve to them. Without
// this check one request would come back until no file descriptors are left.
func leadsBack(listen string, conn net.Conn) bool {
	remote, ok := addrOf(conn.RemoteAddr())
	if !ok {
		return false
	}
	// Both ends of a connection within a host have the same address, except on the loopback
	// interface, which has several.
	within := remote.IsLoopback() || remote.IsUnspecified() // which is the same for a client
	if local, ok := addrOf(conn.LocalAddr()); !within && (!ok || local != remote) {
		return false
	}
	_, address := config.SplitListen(listen)
	host, _, _ := net.SplitHostPort(address) // mayLoop has split it
	if host == "" {
		return true
	}
	own, err := netip.ParseAddr(host)
	if err != nil {
		return within && strings.EqualFold(host, "localhost")
	}
	return own.IsUnspecified() || own.Unmap() == remote || remote.IsUnspecified() && own.IsLoopback()
}

func addrOf(a net.Addr) (netip.Addr, bool) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(tcp.IP)
	return addr.Unmap(), ok
}
