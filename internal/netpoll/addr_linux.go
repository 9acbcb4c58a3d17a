package netpoll

import (
	"net"
	"slices"
	"syscall"
)

// sockaddr returns an address in the kernel's form, and its family; nil if it has none that Dial
// uses.
func sockaddr(addr net.Addr) (family int, sa syscall.Sockaddr) {
	switch a := addr.(type) {
	case *net.UnixAddr:
		return syscall.AF_UNIX, &syscall.SockaddrUnix{Name: a.Name}
	case *net.TCPAddr:
		if ip := a.IP.To4(); ip != nil {
			return syscall.AF_INET, &syscall.SockaddrInet4{Port: a.Port, Addr: [4]byte(ip)}
		}
		if ip := a.IP.To16(); ip != nil && a.Zone == "" {
			return syscall.AF_INET6, &syscall.SockaddrInet6{Port: a.Port, Addr: [16]byte(ip)}
		}
	}
	return 0, nil
}

// netAddr returns a socket's address in package net's form.
func netAddr(sa syscall.Sockaddr) net.Addr {
	switch sa := sa.(type) {
	case *syscall.SockaddrInet4:
		return &net.TCPAddr{IP: slices.Clone(sa.Addr[:]), Port: sa.Port}
	case *syscall.SockaddrInet6:
		return &net.TCPAddr{IP: slices.Clone(sa.Addr[:]), Port: sa.Port, Zone: zone(sa.ZoneId)}
	case *syscall.SockaddrUnix:
		return &net.UnixAddr{Name: sa.Name, Net: "unix"}
	}
	return nil
}

// zone returns the name of a link-local address's interface.
func zone(index uint32) string {
	if index == 0 {
		return ""
	}
	ifi, err := net.InterfaceByIndex(int(index))
	if err != nil {
		return ""
	}
	return ifi.Name
}
