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

// holdAck keeps an acknowledgement until its namespace is connected.
func (r *receiver) holdAck(p *packet) {
	if r.heldAcks == nil {
		r.heldAcks = new(heldAcks)
	}
	if !r.heldAcks.add(p) {
		r.protocolError("too many acknowledgements before CONNECT")
	}
}

// takeHeldAcks removes and returns the acknowledgements held for a namespace.
func (r *receiver) takeHeldAcks(namespace string) []packet {
	if r.heldAcks == nil {
		return nil
	}
	taken := r.heldAcks.take(namespace)
	if len(r.heldAcks.packets) == 0 {
		r.heldAcks = nil
	}
	return taken
}
