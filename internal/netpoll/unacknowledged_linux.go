package netpoll

import "golang.org/x/sys/unix"

// unacknowledged returns how many written bytes the kernel still holds. Over TCP these are the
// bytes that the peer has not acknowledged, on a Unix socket those that it has not read.
func unacknowledged(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return 0 // the connection has ended
	}
	return n
}
