package proxy

const (
	// maxHeldAcks and maxHeldAckBytes bound the acknowledgements held for namespaces whose CONNECT
	// has not arrived.
	maxHeldAcks     = 256
	maxHeldAckBytes = 1 << 20
)

// heldAcks are acknowledgements for namespaces that the client has not connected yet.
// socket.io-client sends those that became due while its engine opened before it sends the CONNECT.
type heldAcks struct {
	packets []packet
	bytes   int
}

// add adds a copy of p. It returns false if there are too many.
func (h *heldAcks) add(p *packet) bool {
	h.bytes += p.size()
	if len(h.packets) >= maxHeldAcks || h.bytes > maxHeldAckBytes {
		return false
	}
	if kept, err := p.clone(); err == nil { // it parsed before
		h.packets = append(h.packets, kept)
	}
	return true
}

// take removes and returns those for a namespace.
func (h *heldAcks) take(namespace string) (taken []packet) {
	rest := h.packets[:0]
	for _, p := range h.packets {
		if string(p.h.Namespace) == namespace {
			taken = append(taken, p)
			h.bytes -= p.size()
		} else {
			rest = append(rest, p)
		}
	}
	clear(h.packets[len(rest):])
	h.packets = rest
	return taken
}
