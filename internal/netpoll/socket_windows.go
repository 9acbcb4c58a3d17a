package netpoll

import "syscall"

// A Windows socket has no non-blocking read or write on its handle. rawConn returns no raw connection there, so
// nothing calls these.

func recvFD(int, []byte) (int, error) { return 0, syscall.EWINDOWS }

func sendFD(int, []byte) (int, error) { return 0, syscall.EWINDOWS }
