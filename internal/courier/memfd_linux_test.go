package courier

import (
	"bytes"
	"os"
	"testing"
)

func TestSnapshotIsReadAndFreed(t *testing.T) {
	file, err := NewSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := OpenSnapshot(int(file.Fd())); err == nil {
		t.Error("an empty snapshot was opened")
	}
	page := os.Getpagesize()
	content := bytes.Repeat([]byte("x"), 4*page)
	if _, err := file.Write(content); err != nil {
		t.Fatal(err)
	}
	s, err := OpenSnapshot(int(file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(s.Data, content) {
		t.Error("other content")
	}
	s.Free(2*page + 10)
	if s.Data[2*page-1] != 0 || s.Data[2*page] != 'x' {
		t.Error("freed too much or too little")
	}
	if err := s.Unmap(); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoSnapshot(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := OpenSnapshot(int(r.Fd())); err == nil {
		t.Error("a pipe was opened")
	}
	if _, err := OpenSnapshot(1 << 19); err == nil {
		t.Error("a descriptor that does not exist was opened")
	}
	if err := CheckSockets([]int{int(r.Fd())}); err == nil {
		t.Error("a pipe is taken for a socket")
	}
	if err := CheckSockets([]int{1 << 19}); err == nil {
		t.Error("a descriptor that does not exist is taken for a socket")
	}
}

// An exec that fails leaves everything as it was.
func TestExecThatFails(t *testing.T) {
	file, err := NewSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	in := &Inherited{Snapshot: int(file.Fd()), Old: -1}
	called := false
	err = Exec(Program{Path: "/does/not/exist", Args: []string{"x"}}, os.Environ(), in, nil, func() error {
		called = true
		return nil
	})
	if err == nil || !called {
		t.Errorf("%v, called %v", err, called)
	}
	if !closesOnExec(t, in.Snapshot) {
		t.Error("the snapshot would reach the next child")
	}
	if err := Exec(Program{Path: "/bin/true"}, nil, in, []int{1 << 19}, func() error { return nil }); err == nil {
		t.Error("a descriptor that does not exist was kept")
	}
	stop := os.ErrDeadlineExceeded
	if err := Exec(Program{Path: "/bin/true"}, nil, in, nil, func() error { return stop }); err != stop { //nolint:errorlint // as it is
		t.Errorf("stopped at the last moment: %v", err)
	}
}
