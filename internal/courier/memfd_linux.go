package courier

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// NewSnapshot returns an empty memfd.
func NewSnapshot() (*os.File, error) {
	fd, err := unix.MemfdCreate("holdfast-handover", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), "holdfast-handover"), nil
}

// Snapshot is a memfd that is read.
type Snapshot struct {
	Data  []byte
	fd    int
	freed int64
}

// OpenSnapshot maps a memfd into memory. It does not own the descriptor before Close.
func OpenSnapshot(fd int) (*Snapshot, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if st.Size <= 0 || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("courier: descriptor %d is not a snapshot", fd)
	}
	data, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return &Snapshot{Data: data, fd: fd}, nil
}

// WriteAt implements io.WriterAt.
func (s *Snapshot) WriteAt(p []byte, at int64) (int, error) { return unix.Pwrite(s.fd, p, at) }

// Free gives the memory of the first bytes back. They read as zero then.
func (s *Snapshot) Free(bytes int) {
	page := int64(os.Getpagesize())
	to := int64(bytes) / page * page
	if to > s.freed {
		// Only saves memory.
		_ = unix.Fallocate(s.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, s.freed, to-s.freed)
		s.freed = to
	}
}

// Unmap ends the use of Data, and leaves the descriptor open.
func (s *Snapshot) Unmap() error {
	err := unix.Munmap(s.Data)
	s.Data = nil
	return err
}

// Close ends the use of Data, and closes the descriptor.
func (s *Snapshot) Close() error { return errors.Join(s.Unmap(), unix.Close(s.fd)) }
