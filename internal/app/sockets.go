package app

import (
	"net"
	"slices"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/courier"
	"github.com/holdfast/holdfast/internal/handover"
	"github.com/holdfast/holdfast/internal/neterr"
)

// The kinds of listeners in a snapshot.
const (
	clientSocket = "clients"
	adminSocket  = "admin"
)

// sockets opens the process's listeners, or takes those of the process before it. Its user does not
// call it concurrently.
type sockets struct {
	inherited []handover.Listener
	open      []socket
}

// socket is a listener that is open.
type socket struct {
	kind, address string
	ln            net.Listener
}

// listen opens an address as the configuration writes it: host:port, :port or unix://path.
func (s *sockets) listen(kind, addr string) (net.Listener, error) {
	ln, err := s.take(kind, addr)
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

// take returns an inherited listener, or nil.
func (s *sockets) take(kind, addr string) (net.Listener, error) {
	i := slices.IndexFunc(s.inherited, func(l handover.Listener) bool { return l.Kind == kind && l.Address == addr })
	if i < 0 {
		return nil, nil //nolint:nilnil // there is none
	}
	return courier.Listener(s.inherited[i].FD)
}

// closeInherited closes an inherited listener whose address is not wanted any more, because it may
// be in the way of the new address. It returns false if there is none.
func (s *sockets) closeInherited(kind string) bool {
	before := len(s.inherited)
	s.inherited = slices.DeleteFunc(s.inherited, func(l handover.Listener) bool {
		if l.Kind != kind {
			return false
		}
		courier.CloseFD(l.FD)
		return true
	})
	return len(s.inherited) < before
}

// settle closes the inherited descriptors: those in use have been copied.
func (s *sockets) settle() {
	for _, l := range s.inherited {
		courier.CloseFD(l.FD)
	}
	s.inherited = nil
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
