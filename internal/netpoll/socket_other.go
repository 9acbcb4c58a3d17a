//go:build !windows && (!linux || !(amd64 || arm64) || race)

package netpoll

import "syscall"

// The race detector follows what goes through a socket only by way of these.

func recvFD(fd int, p []byte) (int, error) { return syscall.Read(fd, p) }

func sendFD(fd int, p []byte) (int, error) { return syscall.Write(fd, p) }

func connectFD(fd int, sa syscall.Sockaddr) error { return syscall.Connect(fd, sa) }
