//go:build linux && (amd64 || arm64) && !race

package stream

import (
	"syscall"
	"unsafe"
)

// Reads and writes are most of what a proxy costs. recvfrom and sendto spare the kernel the layers of files that read
// and write pass, and a raw call spares the scheduler its book-keeping: these never wait, so no other goroutine
// is held up. Together that is a sixth of a message's cost.

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
