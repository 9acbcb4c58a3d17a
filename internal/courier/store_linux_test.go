package courier

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// sockets returns n sockets, each with its own byte to read.
func sockets(t *testing.T, n int) []int {
	t.Helper()
	var fds []int
	for i := range n {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(pair[0], []byte{byte(i), byte(i >> 8)}); err != nil {
			t.Fatal(err)
		}
		fds = append(fds, pair[1])
		t.Cleanup(func() { CloseFD(pair[0]) })
	}
	return fds
}

func closeAll(fds []int) {
	for _, fd := range fds {
		CloseFD(fd)
	}
}

// Sockets survive in the queue after their sender has closed them, and can be looked at twice.
func TestQueuedSocketsCanBeReadTwice(t *testing.T) {
	for _, n := range []int{0, 1, maxRights, maxRights + 1, 3*maxRights + 7} {
		fds := sockets(t, n)
		ends, err := queue(fds, 4096)
		if err != nil {
			t.Fatal(err)
		}
		closeAll(fds)
		st := &Stored{links: ends}
		once, err := st.Links()
		if err != nil || len(once) != n {
			t.Fatalf("%d sockets: %d, %v", n, len(once), err)
		}
		if err := CheckSockets(once); err != nil {
			t.Error(err)
		}
		closeAll(once) // this process dies
		again, err := st.Links()
		if err != nil || len(again) != n {
			t.Fatalf("%d sockets, again: %d, %v", n, len(again), err)
		}
		for i, fd := range again {
			b := make([]byte, 2)
			if _, err := unix.Read(fd, b); err != nil || int(b[0])|int(b[1])<<8 != i {
				t.Fatalf("socket %d of %d has %v, %v", i, n, b, err)
			}
		}
		closeAll(again)
		st.Close()
	}
}

func TestTooManySocketsForTheQueues(t *testing.T) {
	fds := sockets(t, 1)
	defer closeAll(fds)
	ends, err := queue(slices.Repeat(fds, 1<<16), 4096)
	if err == nil || len(ends) == 0 {
		t.Errorf("%d queues, %v", len(ends), err)
	}
	closeAll(ends)
}

func TestTakeStored(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	pid := strconv.Itoa(os.Getpid())
	environ := []string{
		"A=1", "LISTEN_PID=" + pid, "LISTEN_FDS=4",
		"LISTEN_FDNAMES=" + strings.Join([]string{linksName, snapshotName, "other", SocketName("clients", ":80"), "beyond"}, ":"),
	}
	st, rest := TakeStored(environ)
	if !slices.Equal(rest, []string{"A=1"}) {
		t.Errorf("the rest is %v", rest)
	}
	if st == nil || st.Snapshot != 4 || !slices.Equal(st.links, []int{3}) ||
		!slices.Equal(st.Sockets, []StoredSocket{{SocketName("clients", ":80"), 6}}) {
		t.Errorf("got %+v", st)
	}
	environ[1] = "LISTEN_PID=1"
	if st, _ := TakeStored(environ); st != nil {
		t.Errorf("what was for another process: %+v", st)
	}
	if st, rest := TakeStored([]string{"A=1"}); st != nil || len(rest) != 1 {
		t.Errorf("nothing was passed: %+v, %v", st, rest)
	}
}

func closesOnExec(t *testing.T, fd int) bool {
	t.Helper()
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil {
		t.Fatal(err)
	}
	return flags&unix.FD_CLOEXEC != 0
}
