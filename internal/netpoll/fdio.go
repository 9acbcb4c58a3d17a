package netpoll

import (
	"errors"
	"os"
	"syscall"
)

// tryWrite writes what the kernel takes without waiting. It holds the arguments and results of its
// own callback, so that a write allocates nothing.
type tryWrite struct {
	buf []byte
	n   int
	err error
	fn  func(fd uintptr) bool
}

func (t *tryWrite) write(raw syscall.RawConn, p []byte) (int, error) {
	t.buf = p
	err := raw.Write(t.fn)
	if err == nil {
		err = t.err
	}
	n := t.n
	t.buf, t.n, t.err = nil, 0, nil
	return n, err
}

// writeFD always returns true, so that the poller does not wait.
func (t *tryWrite) writeFD(fd uintptr) bool {
	t.n, t.err = writeFD(int(fd), t.buf, sysWrite)
	return true
}

// readFD reads from a non-blocking descriptor with recv, again if a signal interrupts it.
func readFD(fd int, p []byte, recv func(fd int, p []byte) (int, error)) (int, error) {
	for {
		n, err := recv(fd, p)
		if err == nil || !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}

// writeFD writes what the kernel takes without waiting.
func writeFD(fd int, p []byte, send func(fd int, p []byte) (int, error)) (written int, err error) {
	for written < len(p) {
		n, err := send(fd, p[written:])
		switch {
		case err == nil:
			written += n
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EAGAIN):
			return written, nil
		default:
			return written, os.NewSyscallError("write", err)
		}
	}
	return written, nil
}
