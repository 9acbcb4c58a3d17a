package app

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/holdfast/holdfast/internal/courier"
	"github.com/holdfast/holdfast/internal/handover"
)

// inherited returns the records of open sockets with copies of their descriptors, which a next
// program would own.
func inherited(t *testing.T, s *sockets) []handover.Listener {
	t.Helper()
	list, err := s.records()
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		ln, err := courier.Listener(list[i].FD)
		if err != nil {
			t.Fatal(err)
		}
		f, err := ln.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
		list[i].FD, err = syscall.Dup(int(f.Fd())) // settle closes it
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	return list
}

func mustListen(t *testing.T, s *sockets, kind, addr string) net.Listener {
	t.Helper()
	ln, err := s.listen(kind, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// A listener with the same address is taken over, with what waits in its queue. Another one is not.
func TestSocketsAreTakenOver(t *testing.T) {
	file := filepath.Join(t.TempDir(), "admin.sock")
	var old, next sockets
	clients := mustListen(t, &old, clientSocket, "127.0.0.1:0")
	admin := mustListen(t, &old, adminSocket, "unix://"+file)
	waiting, err := net.Dial("tcp", clients.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	next.inherit(inherited(t, &old))

	taken := mustListen(t, &next, clientSocket, "127.0.0.1:0")
	if taken.Addr().String() != clients.Addr().String() {
		t.Errorf("listens on %v, not on %v", taken.Addr(), clients.Addr())
	}
	conn, err := taken.Accept()
	if err != nil || conn.RemoteAddr().String() != waiting.LocalAddr().String() {
		t.Fatalf("accepted %v, %v", conn, err)
	}
	conn.Close()
	other := mustListen(t, &next, adminSocket, "127.0.0.1:0")
	if other.Addr().Network() != "tcp" {
		t.Errorf("listens on %v", other.Addr())
	}
	next.settle()
	if want := []string{courier.SocketName(adminSocket, "unix://"+file)}; !slices.Equal(next.unused, want) {
		t.Errorf("unused: %v, want %v", next.unused, want)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the old socket's file: %v", err)
	}
	_ = admin
}

// A Unix socket's file is removed when the process that took it over closes it, and not before.
func TestUnixSocketIsRemovedAtTheEnd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "clients.sock")
	var old, next sockets
	before := mustListen(t, &old, clientSocket, "unix://"+file)
	old.unlinkUnix(false) // as the old process, which never closes it
	next.inherit(inherited(t, &old))
	ln := mustListen(t, &next, clientSocket, "unix://"+file)
	next.settle()
	before.Close()
	conn, err := net.Dial("unix", file)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	ln.Close()
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
}

// A descriptor that was closed by a program that could not take over is not used, and not closed
// again.
func TestClosedSocketIsOpenedAgain(t *testing.T) {
	var s sockets
	s.inherited = []courier.StoredSocket{{Name: courier.SocketName(clientSocket, "127.0.0.1:0"), FD: 1 << 19}}
	mustListen(t, &s, clientSocket, "127.0.0.1:0")
	if len(s.inherited) != 0 {
		t.Errorf("still there: %v", s.inherited)
	}
}
