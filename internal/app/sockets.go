package app

import (
	"net"
	"slices"
	"strings"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/courier"
	"github.com/holdfast/holdfast/internal/handover"
	"github.com/holdfast/holdfast/internal/neterr"
)

// The kinds of listeners in a snapshot.
const (
	clientSocket = "clients"
	adminSocket  = "admin"
	peerSocket   = "peers"
)

// sockets opens the process's listeners, or takes those of the process before it. Its user does not
// call it concurrently.
type sockets struct {
	inherited []courier.StoredSocket
	open      []socket
	unused    []string // names of inherited ones that were not wanted
}

// socket is a listener that is open.
type socket struct {
	kind, address string
	ln            net.Listener
}

// inherit adds the listeners of a snapshot.
func (s *sockets) inherit(listeners []handover.Listener) {
	for _, l := range listeners {
		s.inherited = append(s.inherited, courier.StoredSocket{Name: courier.SocketName(l.Kind, l.Address), FD: l.FD})
	}
}

// listen opens an address as the configuration writes it: host:port, :port or unix://path.
func (s *sockets) listen(kind, addr string) (net.Listener, error) {
	ln := s.take(kind, addr)
	var err error
	if ln == nil {
		network, address := config.SplitListen(addr)
		ln, err = net.Listen(network, address)
		if err != nil && neterr.IsAddrInUse(err) && s.closeInherited(kind) {
			ln, err = net.Listen(network, address)
		}
	}
	if err == nil {
		s.open = append(s.open, socket{kind, addr, ln})
	}
	return ln, err
}

// take returns an inherited listener, or nil. If its descriptor is no longer a socket, a program
// that could not take over has closed it. The number may then belong to something else.
func (s *sockets) take(kind, addr string) net.Listener {
	name := courier.SocketName(kind, addr)
	i := slices.IndexFunc(s.inherited, func(l courier.StoredSocket) bool { return l.Name == name })
	if i < 0 {
		return nil
	}
	ln, err := courier.Listener(s.inherited[i].FD)
	if err != nil {
		s.inherited = slices.Delete(s.inherited, i, i+1)
		return nil
	}
	return ln
}

// closeInherited closes inherited listeners whose address is no longer configured, because one may
// conflict with the new address. It returns false if there is none.
func (s *sockets) closeInherited(kind string) bool {
	before := len(s.inherited)
	s.inherited = slices.DeleteFunc(s.inherited, func(l courier.StoredSocket) bool {
		if !strings.HasPrefix(l.Name, courier.SocketPrefix(kind)) {
			return false
		}
		courier.CloseFD(l.FD)
		s.unused = append(s.unused, l.Name)
		return true
	})
	return len(s.inherited) < before
}

// settle makes the inherited listeners this process's own. Those that are in use have been copied.
func (s *sockets) settle() {
	used := make(map[string]bool)
	for _, o := range s.open {
		used[courier.SocketName(o.kind, o.address)] = true
	}
	s.unlinkUnix(true)
	for _, l := range s.inherited {
		courier.CloseFD(l.FD)
		if !used[l.Name] {
			s.unused = append(s.unused, l.Name)
		}
	}
	s.inherited = nil
}

// unlinkUnix says whether closing a Unix socket removes its file.
func (s *sockets) unlinkUnix(remove bool) {
	for _, o := range s.open {
		if u, ok := o.ln.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(remove)
		}
	}
}

// keep puts the open listeners into the manager's store, and removes those that are not wanted.
func (s *sockets) keep(m *courier.Manager) error {
	for _, o := range s.open {
		fd, err := courier.Descriptor(o.ln)
		if err != nil {
			return err
		}
		if err := m.KeepSocket(o.kind, o.address, fd); err != nil {
			return err
		}
	}
	for _, name := range s.unused {
		if err := m.Forget(name); err != nil {
			return err
		}
	}
	s.unused = nil
	return nil
}

// records describes the open listeners for a snapshot.
func (s *sockets) records() ([]handover.Listener, error) {
	var list []handover.Listener
	for _, o := range s.open {
		fd, err := courier.Descriptor(o.ln)
		if err != nil {
			return nil, err
		}
		list = append(list, handover.Listener{Kind: o.kind, Address: o.address, FD: fd})
	}
	return list, nil
}
