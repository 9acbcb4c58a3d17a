//go:build !linux

package courier

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// Supported says whether this system has what a handover needs.
const Supported = false

// ErrUnsupported says that a handover needs Linux.
var ErrUnsupported = errors.New("a handover needs Linux")

// Signal is never sent on this system.
const Signal = syscall.Signal(0)

// Program is the program of this process, as it was started.
type Program struct {
	Path string
	Args []string
}

// Self returns the program of this process.
func Self() Program { return Program{Args: os.Args} }

// OpenSelf fails.
func OpenSelf() (*os.File, error) { return nil, ErrUnsupported }

// Exec fails.
func Exec(Program, []string, *Inherited, []int, func() error) error { return ErrUnsupported }

// Back fails.
func (in *Inherited) Back([]string, error) error { return ErrUnsupported }

// Clock returns 0.
func Clock() time.Duration { return 0 }

// CheckSockets fails.
func CheckSockets([]int) error { return ErrUnsupported }

// NewSnapshot fails.
func NewSnapshot() (*os.File, error) { return nil, ErrUnsupported }

// Snapshot is a snapshot that is read.
type Snapshot struct{ Data []byte }

// OpenSnapshot fails.
func OpenSnapshot(int) (*Snapshot, error) { return nil, ErrUnsupported }

// WriteAt fails.
func (s *Snapshot) WriteAt([]byte, int64) (int, error) { return 0, ErrUnsupported }

// Free does nothing.
func (s *Snapshot) Free(int) {}

// Unmap does nothing.
func (s *Snapshot) Unmap() error { return nil }

// Close does nothing.
func (s *Snapshot) Close() error { return nil }

// Listener fails.
func Listener(int) (net.Listener, error) { return nil, ErrUnsupported }

// Descriptor fails.
func Descriptor(net.Listener) (int, error) { return -1, ErrUnsupported }

// CloseFD does nothing.
func CloseFD(int) {}

// SetCloseOnExec does nothing.
func SetCloseOnExec(int) {}

// ResidentBytes returns 0.
func ResidentBytes() int64 { return 0 }

// PIDNamespace returns nothing.
func PIDNamespace() string { return "" }

// Manager is the service manager that started this process. There is none on this system.
type Manager struct{}

// FindManager returns nil.
func FindManager([]string) *Manager { return nil }

// Ready does nothing.
func (m *Manager) Ready() error { return nil }

// KeepSocket does nothing.
func (m *Manager) KeepSocket(string, string, int) error { return nil }

// Forget does nothing.
func (m *Manager) Forget(string) error { return nil }

// ForgetHandover does nothing.
func (m *Manager) ForgetHandover() error { return nil }

// KeepHandover fails.
func (m *Manager) KeepHandover(int, []int) error { return ErrUnsupported }

// Stored is what the manager has passed to this process.
type Stored struct {
	Snapshot int
	Sockets  []StoredSocket
}

// StoredSocket is a listener.
type StoredSocket struct {
	Name string
	FD   int
}

// TakeStored returns nil and environ.
func TakeStored(environ []string) (*Stored, []string) { return nil, environ }

// Links fails.
func (st *Stored) Links() ([]int, error) { return nil, ErrUnsupported }

// Close does nothing.
func (st *Stored) Close() {}

// Discard does nothing.
func (st *Stored) Discard() {}

// CloseSockets does nothing.
func CloseSockets() {}
