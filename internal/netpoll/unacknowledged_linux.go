package netpoll

import "golang.org/x/sys/unix"

// unacknowledged is how many written bytes the kernel still has: the peer's has not acknowledged them
// (TCP), or the peer has not read them (Unix sockets).
func unacknowledged(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return 0 // the connection has ended
	}
	return n
}
