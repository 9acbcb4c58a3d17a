package netpoll

import "syscall"

// A Windows socket has no non-blocking read or write on its handle. rawConn returns no raw
// connection there, so nothing calls these.

func sysRead(int, []byte) (int, error) { return 0, syscall.EWINDOWS }

func sysWrite(int, []byte) (int, error) { return 0, syscall.EWINDOWS }
