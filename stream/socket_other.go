//go:build !(linux && (amd64 || arm64))

package stream

import "syscall"

func recvFD(fd int, p []byte) (int, error) { return syscall.Read(fd, p) }

func sendFD(fd int, p []byte) (int, error) { return syscall.Write(fd, p) }
