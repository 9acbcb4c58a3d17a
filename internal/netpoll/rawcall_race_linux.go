//go:build !(amd64 || arm64) || race

package netpoll

import "syscall"

// The race detector instruments package syscall's functions. Only through these does it see that a
// write to a socket happens before the read of the same bytes.

func recvFD(fd int, p []byte) (int, error) { return syscall.Read(fd, p) }

func sendFD(fd int, p []byte) (int, error) { return syscall.Write(fd, p) }

func connectFD(fd int, sa syscall.Sockaddr) error { return syscall.Connect(fd, sa) }
