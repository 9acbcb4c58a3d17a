package neterr

import (
	"errors"
	"slices"
	"syscall"
)

// IsRefused reports whether err says that nothing listens at an address, or that no route leads
// there.
func IsRefused(err error) bool { return is(err, refused) }

// IsReset reports whether err says that the peer reset the connection, or closed it before a write.
func IsReset(err error) bool { return is(err, reset) }

// IsAddrInUse reports whether err says that something listens at an address already.
func IsAddrInUse(err error) bool { return is(err, inUse) }

// IsTooManyFiles reports whether err says that this process, or the system, has no file descriptor
// left.
func IsTooManyFiles(err error) bool { return is(err, tooManyFiles) }

func is(err error, list []syscall.Errno) bool {
	return slices.ContainsFunc(list, func(errno syscall.Errno) bool { return errors.Is(err, errno) })
}
