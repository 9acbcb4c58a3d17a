package courier

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stopSignals ask a process to end.
var stopSignals = [...]syscall.Signal{syscall.SIGTERM, syscall.SIGINT}

// action has room for the kernel's struct sigaction. If all of it is zero, the signal has its
// default effect.
type action [8]uint64

// unhandleStops gives the stop signals their default effect until handle is called. Otherwise a
// signal between the last check and the exec would be lost: this program would have received it,
// and the next one would never learn of it. So such a signal ends the process without a drain, as
// it does until the next program's runtime is ready. A mask does not help: the runtime removes it
// when it starts.
func unhandleStops() (handle func()) {
	var saved [len(stopSignals)]action
	for i, s := range stopSignals {
		sigaction(s, new(action), &saved[i])
	}
	return func() {
		for i, s := range stopSignals {
			sigaction(s, &saved[i], new(action))
		}
	}
}

// sigaction changes what a signal does, behind the back of package os/signal.
func sigaction(s syscall.Signal, to, from *action) {
	const setBytes = 8 // of the kernel's sigset_t
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(from)), setBytes, 0, 0)
}
