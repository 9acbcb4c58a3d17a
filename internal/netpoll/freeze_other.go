//go:build !linux

package netpoll

import "errors"

// Freezer is a Stream that can be moved to another process. There is none on this system.
type Freezer interface {
	Stream
	Freeze() bool
	Export() (Exported, bool)
	Thaw()
}

// Exported is a frozen Stream.
type Exported struct {
	FD             int
	Initial, Queue []byte
}

// Barrier does nothing on this system.
func Barrier() {}

// Adopt fails on this system.
func Adopt(Exported, Handler) (Stream, error) {
	return nil, errors.New("netpoll: connections cannot be handed over on this system")
}
