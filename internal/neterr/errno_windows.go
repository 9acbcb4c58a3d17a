package neterr

import "syscall"

// The numbers of Winsock, from winerror.h.
var (
	refused      = []syscall.Errno{10061, 10065, 10051} // WSAECONNREFUSED, WSAEHOSTUNREACH, WSAENETUNREACH
	reset        = []syscall.Errno{10054, 10053, 10058} // WSAECONNRESET, WSAECONNABORTED, WSAESHUTDOWN
	inUse        = []syscall.Errno{10048}               // WSAEADDRINUSE
	tooManyFiles = []syscall.Errno{10024, 10055}        // WSAEMFILE, WSAENOBUFS
)
