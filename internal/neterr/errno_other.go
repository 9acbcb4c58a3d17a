//go:build !windows

package neterr

import "syscall"

var (
	refused      = []syscall.Errno{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH}
	reset        = []syscall.Errno{syscall.ECONNRESET, syscall.EPIPE}
	inUse        = []syscall.Errno{syscall.EADDRINUSE}
	tooManyFiles = []syscall.Errno{syscall.EMFILE, syscall.ENFILE}
)
