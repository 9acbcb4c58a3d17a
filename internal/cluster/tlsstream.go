package cluster

import (
	"net"
	"sync"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// socket is the net.Conn below a connection's tls.Conn. During the handshake it is the network
// connection. Afterwards it is a netpoll.Stream, so that the event loop decrypts what it reads and
// no write blocks.
type socket struct {
	net.Conn
	stream netpoll.Stream // nil during the handshake

	in []byte // what the event loop has just read; owned by the reader

	mu  sync.Mutex // guards out; a leaf
	out []byte     // encrypted, and not yet passed to the stream
}

// errNoInput means that all bytes that have arrived were read. crypto/tls continues to read after a
// temporary error.
var errNoInput net.Error = noInputError{}

type noInputError struct{}

func (noInputError) Error() string   { return "cluster: no more input" }
func (noInputError) Timeout() bool   { return true }
func (noInputError) Temporary() bool { return true }

// Read implements net.Conn.
func (s *socket) Read(p []byte) (int, error) {
	if s.stream == nil {
		return s.Conn.Read(p)
	}
	if len(s.in) == 0 {
		return 0, errNoInput
	}
	n := copy(p, s.in)
	s.in = s.in[n:]
	return n, nil
}

// Write implements net.Conn. The bytes wait for flush, so that the records of one batch go out
// together.
func (s *socket) Write(p []byte) (int, error) {
	if s.stream == nil {
		return s.Conn.Write(p)
	}
	s.mu.Lock()
	s.out = append(s.out, p...)
	s.mu.Unlock()
	return len(p), nil
}

// keptBytes is the largest buffer that a connection keeps between two batches.
const keptBytes = 128 << 10

// flush passes what was encrypted to the stream. It returns how many bytes wait for the kernel.
func (s *socket) flush() (queued int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.out) == 0 {
		return s.stream.Queued()
	}
	queued = s.stream.Write(s.out)
	s.out = s.out[:0]
	if cap(s.out) > keptBytes {
		s.out = nil
	}
	return queued
}
