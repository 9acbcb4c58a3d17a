package courier

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Supported says whether this system has what a handover needs.
const Supported = true

// Signal asks a running holdfast to hand over.
const Signal = syscall.SIGUSR2

// Program is the program of this process, as it was started.
type Program struct {
	Path string   // absolute; the file may be another one by now
	Args []string // with the name
}

// Self returns the program of this process. Call it early: the working directory may change.
func Self() Program {
	path, err := exec.LookPath(os.Args[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil { // such as a name that is not in PATH
		path, _ = os.Executable()
	}
	return Program{path, os.Args}
}

// OpenSelf opens the executable that this process runs, whatever its path is by now.
func OpenSelf() (*os.File, error) { return os.Open("/proc/self/exe") }

// Exec replaces this process's program. keep are the descriptors that the next program needs, in
// addition to the standard ones. It calls last just before the point of no return, and does nothing
// if last fails. Signals to stop that arrive later end the process. Exec returns only if it failed,
// and then nothing has changed.
func Exec(p Program, environ []string, in *Inherited, keep []int, last func() error) error {
	environ = append(slices.Clip(environ), Variable+"="+in.String())
	keep = append(slices.Clip(keep), in.Snapshot)
	if in.Old >= 0 {
		keep = append(keep, in.Old)
	}
	for i, fd := range keep {
		if err := setCloseOnExec(fd, false); err != nil {
			closeOnExec(keep[:i])
			return err
		}
	}
	defer closeOnExec(keep)
	// An ignored signal stays ignored until the next program wants it. The default would end it.
	signal.Ignore(Signal, syscall.SIGHUP)
	defer unhandleStops()()
	err := last()
	if err == nil {
		err = execKeepingLimit(p, environ)
	}
	return err
}

// execKeepingLimit execs. Before an exec, the runtime lowers the soft limit of descriptors to its
// value at the start. If the exec fails, the runtime does not restore the limit.
func execKeepingLimit(p Program, environ []string) error {
	var limit unix.Rlimit
	known := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil
	err := syscall.Exec(p.Path, p.Args, environ)
	if known {
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) // it was allowed before
	}
	return fmt.Errorf("exec %s: %w", p.Path, err)
}

// Back replaces this program by the one that handed over to it, and tells it why. It returns only
// if that fails. The inherited descriptors must not have been changed.
func (in *Inherited) Back(environ []string, why error) error {
	old := &Inherited{Snapshot: in.Snapshot, Old: -1, Failure: why.Error()}
	environ = append(slices.Clip(environ), Variable+"="+old.String())
	signal.Ignore(Signal, syscall.SIGHUP)
	defer unhandleStops()()
	p := Program{Path: "/proc/self/fd/" + strconv.Itoa(in.Old), Args: os.Args}
	return fmt.Errorf("back to the old program: %w", execKeepingLimit(p, environ))
}

func setCloseOnExec(fd int, on bool) error {
	flags := 0
	if on {
		flags = unix.FD_CLOEXEC
	}
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, flags)
	return os.NewSyscallError("fcntl", err)
}

func closeOnExec(fds []int) {
	for _, fd := range fds {
		_ = setCloseOnExec(fd, true) // it is open
	}
}

// Clock returns the time on a clock that all processes of this host share.
func Clock() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// CheckSockets returns an error unless all descriptors are open sockets.
func CheckSockets(fds []int) error {
	for _, fd := range fds {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
			return fmt.Errorf("descriptor %d is not a socket", fd)
		}
	}
	return nil
}

// CloseSockets closes all sockets that this process has inherited and does not use. Everything that
// a Go program opens itself is closed at an exec, and inherited sockets are not.
func CloseSockets() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= unix.Stderr {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 && CheckSockets([]int{fd}) == nil {
			CloseFD(fd)
		}
	}
}

// Listener returns a listener on a copy of an inherited descriptor.
func Listener(fd int) (net.Listener, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(dup), "")
	defer f.Close()
	return net.FileListener(f)
}

// Descriptor returns the descriptor of a listener, which stays the listener's.
func Descriptor(ln net.Listener) (int, error) {
	c, ok := ln.(syscall.Conn)
	if !ok {
		return -1, fmt.Errorf("courier: %T has no descriptor", ln)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	err = raw.Control(func(n uintptr) { fd = int(n) })
	return fd, err
}

// CloseFD closes an inherited descriptor.
func CloseFD(fd int) { _ = unix.Close(fd) }

// SetCloseOnExec closes an inherited descriptor when this program is replaced.
func SetCloseOnExec(fd int) { _ = setCloseOnExec(fd, true) }

// ResidentBytes returns how much memory this process takes, or 0.
func ResidentBytes() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// PIDNamespace returns the kernel's name for what this process's id is valid in.
func PIDNamespace() string {
	name, _ := os.Readlink("/proc/self/ns/pid")
	return name
}
