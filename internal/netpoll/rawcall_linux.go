//go:build linux && (amd64 || arm64) && !race

package netpoll

import (
	"syscall"
	"unsafe"
)

// This file has the event loop's system calls. They never wait, so RawSyscall is safe: it skips the
// scheduler's bookkeeping, which exists to let other goroutines run while a call blocks. recvfrom
// and sendto also skip the VFS layers that read and write pass through. Builds with the race
// detector use rawcall_race_linux.go instead.

// recvFD reads once and does not wait.
func recvFD(fd int, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), syscall.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// sendFD writes once and does not wait.
func sendFD(fd int, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// connectFD begins to connect a non-blocking socket. Over the loopback the kernel completes the TCP
// handshake within the call. The call takes long only if nearly all local ports are in use and the
// kernel has to search for one.
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

// networkOrder converts a port to network byte order. amd64 and arm64 are little-endian.
func networkOrder(port int) uint16 { return uint16(port>>8) | uint16(port<<8) }
