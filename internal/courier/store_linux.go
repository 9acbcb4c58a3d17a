package courier

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The manager's file descriptor store keeps descriptors while no process runs, and passes them to
// the next one. Each has a name:
//
//	holdfast-snapshot       the snapshot
//	holdfast-links          one end of a socket pair; its queue holds the sockets of links
//	holdfast-socket-KIND-X  a listener; X identifies its address
//
// Sockets of links go into the queue, and not into the store, because the store compares each
// descriptor with all others.

const (
	snapshotName = "holdfast-snapshot"
	linksName    = "holdfast-links"
)

const (
	// firstStored is the number of the first descriptor that the manager passes.
	firstStored = 3
	// maxRights is how many descriptors one message of a socket may carry (SCM_MAX_FD).
	maxRights = 253
	// queueBytes is the wanted size of a pair's queue. The kernel allows most processes less, so
	// more pairs are used then.
	queueBytes = 8 << 20
	// maxPairs bounds the pairs: the store has 16 places in the unit that is shipped.
	maxPairs = 10
)

// KeepSocket puts a listener into the store.
func (m *Manager) KeepSocket(kind, address string, fd int) error {
	return m.notify("FDSTORE=1\nFDPOLL=0\nFDNAME="+SocketName(kind, address), fd)
}

// Forget removes what has this name from the store.
func (m *Manager) Forget(name string) error { return m.notify("FDSTOREREMOVE=1\nFDNAME=" + name) }

// ForgetHandover removes a snapshot, and the sockets of links, from the store.
func (m *Manager) ForgetHandover() error {
	return errors.Join(m.Forget(snapshotName), m.Forget(linksName))
}

// KeepHandover puts a snapshot and the sockets of links into the store. When it returns, the
// manager has them. After an error it has neither.
func (m *Manager) KeepHandover(snapshot int, links []int) error {
	err := m.keepHandover(snapshot, links)
	if err != nil {
		err = errors.Join(err, m.ForgetHandover())
	}
	return err
}

func (m *Manager) keepHandover(snapshot int, links []int) error {
	pairs, err := queue(links, queueBytes)
	defer func() {
		for _, fd := range pairs {
			_ = unix.Close(fd) // the manager has copies
		}
	}()
	if err != nil {
		return err
	}
	for _, fd := range pairs {
		// Without FDPOLL=0 the manager would drop an end whose other end is closed.
		if err := m.notify("FDSTORE=1\nFDPOLL=0\nFDNAME="+linksName, fd); err != nil {
			return err
		}
	}
	if err := m.notify("FDSTORE=1\nFDPOLL=0\nFDNAME="+snapshotName, snapshot); err != nil {
		return err
	}
	return m.Barrier()
}

// queue puts descriptors into the queues of socket pairs, and returns their reading ends.
func queue(fds []int, bytes int) (ends []int, err error) {
	for next := 0; next < len(fds); {
		if len(ends) == maxPairs {
			return ends, fmt.Errorf("courier: %d sockets do not fit into %d queues; raise net.core.wmem_max", len(fds), maxPairs)
		}
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return ends, os.NewSyscallError("socketpair", err)
		}
		ends = append(ends, pair[1])
		// As far as it is allowed.
		_ = unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_SNDBUF, bytes)
		sent, err := fill(pair[0], fds[next:], next)
		_ = unix.Close(pair[0])
		if err != nil {
			return ends, err
		}
		next += sent
	}
	return ends, nil
}

// fill sends descriptors until the queue is full. Each message says which one is its first.
func fill(to int, fds []int, first int) (sent int, err error) {
	for sent < len(fds) {
		part := fds[sent:min(sent+maxRights, len(fds))]
		var head [8]byte
		binary.LittleEndian.PutUint32(head[:], uint32(first+sent))
		binary.LittleEndian.PutUint32(head[4:], uint32(len(part)))
		err := unix.Sendmsg(to, head[:], unix.UnixRights(part...), nil, 0)
		switch {
		case errors.Is(err, unix.EAGAIN) && sent > 0:
			return sent, nil
		case err != nil:
			return sent, fmt.Errorf("courier: queue the sockets: %w", err)
		}
		sent += len(part)
	}
	return sent, nil
}

// Stored is what the manager has passed to this process.
type Stored struct {
	Snapshot int // -1 if there is none
	Sockets  []StoredSocket
	links    []int // the reading ends of the queues
}

// StoredSocket is a listener.
type StoredSocket struct {
	Name string // as SocketName returns it
	FD   int
}

// TakeStored returns what the manager has passed, or nil, and environ without the variables that
// announce it. It ignores names other than those above.
func TakeStored(environ []string) (st *Stored, rest []string) {
	vars := make(map[string]string)
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		switch name {
		case "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES":
			vars[name] = value
			_ = os.Unsetenv(name) // it is a valid name
		default:
			rest = append(rest, v)
		}
	}
	n, err := strconv.Atoi(vars["LISTEN_FDS"])
	if err != nil || vars["LISTEN_PID"] != strconv.Itoa(os.Getpid()) {
		return nil, rest
	}
	st = &Stored{Snapshot: -1}
	for i, name := range strings.Split(vars["LISTEN_FDNAMES"], ":") {
		fd := firstStored + i
		if i >= n {
			break
		}
		SetCloseOnExec(fd)
		switch {
		case name == snapshotName && st.Snapshot < 0:
			st.Snapshot = fd
		case name == linksName:
			st.links = append(st.links, fd)
		case strings.HasPrefix(name, socketPrefix):
			st.Sockets = append(st.Sockets, StoredSocket{name, fd})
		}
	}
	return st, rest
}

// Links returns the sockets of links in their order. They stay in the queues as well: if this
// process ends now, the next one gets them again.
func (st *Stored) Links() (fds []int, err error) {
	defer func() {
		if err != nil {
			closeReceived(fds)
			fds = nil
		}
	}()
	for _, end := range st.links {
		if err := unix.SetsockoptInt(end, unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0); err != nil {
			return fds, os.NewSyscallError("setsockopt", err)
		}
		for {
			first, part, err := peek(end)
			if err != nil {
				return fds, err
			}
			if part == nil {
				break
			}
			if int(first)+len(part) > len(fds) {
				fds = append(fds, make([]int, int(first)+len(part)-len(fds))...)
			}
			copy(fds[first:], part)
		}
	}
	return fds, nil
}

// closeReceived closes descriptors. A 0 stands for one that was not received.
func closeReceived(fds []int) {
	for _, fd := range fds {
		if fd > 0 {
			CloseFD(fd)
		}
	}
}

// maxLinks bounds the number of links, so that a wrong message takes no memory.
const maxLinks = 1 << 24

// peek reads the next message without taking it from the queue. It returns nil at the end.
func peek(end int) (first uint32, fds []int, err error) {
	var head [8]byte
	oob := make([]byte, unix.CmsgSpace(4*maxRights))
	n, oobn, flags, _, err := unix.Recvmsg(end, head[:], oob, unix.MSG_PEEK|unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	switch {
	case errors.Is(err, unix.EAGAIN), err == nil && n == 0:
		return 0, nil, nil
	case err != nil:
		return 0, nil, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err == nil && len(messages) == 1 {
		fds, err = unix.ParseUnixRights(&messages[0])
	}
	first = binary.LittleEndian.Uint32(head[:])
	switch {
	case err != nil:
		return 0, nil, err
	case flags&unix.MSG_CTRUNC != 0:
		closeReceived(fds)
		return 0, nil, errors.New("courier: not all sockets were received: raise the limit of open files")
	case n != len(head) || len(fds) == 0 || first > maxLinks || int(binary.LittleEndian.Uint32(head[4:])) != len(fds):
		closeReceived(fds)
		return 0, nil, errors.New("courier: the queue of sockets is malformed")
	}
	return first, fds, nil
}

// Discard closes the snapshot, and what was used to pass the links. When the manager forgets them
// as well, the server sees the links end.
func (st *Stored) Discard() {
	if st.Snapshot >= 0 {
		CloseFD(st.Snapshot)
		st.Snapshot = -1
	}
	st.Close()
}

// Close closes what was used to pass the links. The links themselves stay open.
func (st *Stored) Close() {
	for _, fd := range st.links {
		_ = unix.Close(fd)
	}
	st.links = nil
}
