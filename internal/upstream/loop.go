package upstream

import (
	"errors"
	"net"
	"net/netip"

	"github.com/holdfast/holdfast/internal/config"
)

var errOwnListener = errors.New("this is holdfast's own listener: upstream.url must be the server's address")

// mayLoop reports whether a server has the port of holdfast's own listener. Only then are its
// connections examined.
func mayLoop(listen string, t target) bool {
	network, address := config.SplitListen(listen)
	_, port, err := net.SplitHostPort(address)
	_, serverPort, serverErr := net.SplitHostPort(t.address)
	return network == t.network && err == nil && serverErr == nil && port == serverPort
}

// leadsBack reports whether conn ends at holdfast's own listener at listen, whose port it has. The addresses
// of the connection tell, whatever name led there. One request would otherwise come back until there
// are no file descriptors left.
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
		return within && host == "localhost"
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
