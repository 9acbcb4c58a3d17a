package cluster

import (
	"os"
	"syscall"
)

var errSyscallRefused = os.NewSyscallError("connect", syscall.ECONNREFUSED)
