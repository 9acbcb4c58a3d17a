package courier

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Manager is the service manager that started this process. It understands systemd's notifications
// (sd_notify(3)). A nil Manager ignores everything.
type Manager struct{ socket string }

// FindManager returns the Manager that the environment names, or nil.
func FindManager(environ []string) *Manager {
	for _, v := range environ {
		if socket, ok := strings.CutPrefix(v, "NOTIFY_SOCKET="); ok && socket != "" {
			return &Manager{socket}
		}
	}
	return nil
}

// Ready says that the process serves.
func (m *Manager) Ready() error { return m.notify("READY=1") }

// barrierTimeout is how long Barrier waits.
const barrierTimeout = 5 * time.Second

// Barrier waits until the manager has handled all notifications before it.
func (m *Manager) Barrier() error {
	if m == nil {
		return nil
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	defer CloseFD(p[0])
	err := m.notify("BARRIER=1", p[1])
	_ = unix.Close(p[1]) // the manager has a copy, which it closes when it gets there
	if err != nil {
		return err
	}
	deadline := time.Now().Add(barrierTimeout)
	for {
		fds := []unix.PollFd{{Fd: int32(p[0])}}
		n, err := unix.Poll(fds, int(max(time.Until(deadline), 0).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("poll", err)
		case n == 0:
			return errors.New("courier: the service manager did not answer in time")
		default:
			return nil
		}
	}
}

// notify sends a notification, with descriptors.
func (m *Manager) notify(state string, fds ...int) error {
	if m == nil {
		return nil
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer CloseFD(s)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(s, []byte(state), rights, &unix.SockaddrUnix{Name: m.socket}, 0); err != nil {
		return fmt.Errorf("courier: notify the service manager: %w", err)
	}
	return nil
}
