package netpoll_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// waitLimit limits every wait for an expected event.
const waitLimit = 20 * time.Second

// recorder is a Handler that records its calls.
type recorder struct {
	onRead  func(p []byte) // called first, without holding mu
	onFlush func()         // likewise

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change
	got     []byte
	// unflushed is set between Read and Flush. early is set if Closed was called in between.
	unflushed, early bool
	drained          int
	closed           []error
}

func newRecorder() *recorder { return &recorder{changed: make(chan struct{})} }

func (r *recorder) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *recorder) Read(p []byte) {
	if r.onRead != nil {
		r.onRead(p)
	}
	r.change(func() { r.got, r.unflushed = append(r.got, p...), true })
}

func (r *recorder) Flush() {
	if r.onFlush != nil {
		r.onFlush()
	}
	r.change(func() { r.unflushed = false })
}

func (r *recorder) Drained() { r.change(func() { r.drained++ }) }

func (r *recorder) Closed(err error) {
	r.change(func() { r.closed, r.early = append(r.closed, err), r.early || r.unflushed })
}

// await waits until cond holds. It calls cond with mu held.
func (r *recorder) await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(waitLimit)
	for {
		r.mu.Lock()
		ok, changed := cond(), r.changed
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("waited %v for %s", waitLimit, what)
		}
	}
}

func (r *recorder) awaitBytes(t testing.TB, want []byte) {
	t.Helper()
	r.await(t, "bytes to be read, and flushed", func() bool { return len(r.got) >= len(want) && !r.unflushed })
	r.mu.Lock()
	defer r.mu.Unlock()
	if !bytes.Equal(r.got, want) {
		t.Fatalf("read %d bytes, want %d; they differ", len(r.got), len(want))
	}
}

func (r *recorder) awaitClosed(t testing.TB) {
	t.Helper()
	r.await(t, "Closed", func() bool { return len(r.closed) > 0 })
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.early {
		t.Error("Closed came ahead of Flush")
	}
}

func (r *recorder) counts() (read, drained, closed int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got), r.drained, len(r.closed)
}

// network opens pairs of connections, ours and the peer's, and makes Streams of ours.
type network struct {
	name  string
	plain bool // a socket without TLS
	pair  func(t testing.TB) (ours, peer net.Conn)
	new   func(net.Conn, netpoll.Handler) netpoll.Stream
}

var networks = []network{
	{"tcp", true, tcpPair, netpoll.New},
	{"unix", true, unixPair, netpoll.New},
	{"tls", false, tlsPair, netpoll.New},
	{"tcp by goroutines", true, tcpPair, goroutines},
	{"unix by goroutines", true, unixPair, goroutines},
}

// goroutines returns a Stream as New does on systems without an event loop.
func goroutines(conn net.Conn, h netpoll.Handler) netpoll.Stream { return netpoll.NewGoStream(conn, h) }

const (
	kernelBytes = 128 << 10 // about what the kernel buffers in one direction
	more        = 4 << 20   // more than the kernel buffers for one connection
)

// everywhere runs a test for each kind of connection.
func everywhere(t *testing.T, test func(t *testing.T, n network)) {
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) { test(t, n) })
	}
}

func tcpPair(t testing.TB) (ours, peer net.Conn) {
	t.Helper()
	return pairOf(t, "tcp", "127.0.0.1:0")
}

func unixPair(t testing.TB) (ours, peer net.Conn) {
	t.Helper()
	return pairOf(t, "unix", filepath.Join(t.TempDir(), "s"))
}

func pairOf(t testing.TB, network, address string) (ours, peer net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err = net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ours, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ours.Close()
		peer.Close()
	})
	for _, c := range []net.Conn{ours, peer} {
		b := c.(interface {
			SetReadBuffer(n int) error
			SetWriteBuffer(n int) error
		})
		if err := errors.Join(b.SetReadBuffer(kernelBytes), b.SetWriteBuffer(kernelBytes)); err != nil {
			t.Fatal(err)
		}
	}
	return ours, peer
}

func tlsPair(t testing.TB) (ours, peer net.Conn) {
	t.Helper()
	a, b := tcpPair(t)
	return secure(t, a, b)
}

// secure wraps a pair of connections in TLS.
func secure(t testing.TB, ours, peer net.Conn) (_, _ net.Conn) {
	t.Helper()
	server := tls.Server(ours, &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
	client := tls.Client(peer, &tls.Config{InsecureSkipVerify: true})
	result := make(chan error, 1) // buffered, so that the handshake's goroutine always ends
	go func() { result <- client.Handshake() }()
	if err := errors.Join(server.Handshake(), <-result); err != nil {
		t.Fatal(err)
	}
	return server, client
}

// open starts a Stream on one end of a new pair.
func open(t testing.TB, n network) (netpoll.Stream, *recorder, net.Conn) {
	t.Helper()
	ours, peer := n.pair(t)
	r := newRecorder()
	s := n.new(ours, r)
	s.Start(nil)
	t.Cleanup(func() {
		s.Close()
		r.awaitClosed(t)
	})
	return s, r, peer
}

func randomBytes(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, c net.Conn, p []byte) {
	t.Helper()
	if err := c.SetWriteDeadline(time.Now().Add(waitLimit)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(p); err != nil {
		t.Fatalf("peer's write: %v", err)
	}
}

// readAll reads from the peer's end until it ends.
func readAll(t testing.TB, c net.Conn) []byte {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(waitLimit)); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("peer's read after %d bytes: %v", len(got), err)
	}
	return got
}

// readExactly reads len(want) bytes from the peer's end and compares them.
func readExactly(t testing.TB, c net.Conn, want []byte) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(waitLimit)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("peer's read after %d bytes: %v", n, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("the peer got %d bytes that differ from what was written", len(got))
	}
}

// promptly fails if f blocks.
func promptly(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Errorf("%s blocks", what)
		<-done
	}
}

// fillQueue writes so much to a peer that does not read that most of it stays queued.
func fillQueue(t testing.TB, s netpoll.Stream) []byte {
	t.Helper()
	data := randomBytes(t, more)
	promptly(t, "Write", func() {
		for piece := range slices.Chunk(data, 64<<10) {
			s.Write(piece)
		}
	})
	if s.Queued() == 0 {
		t.Fatal("the kernel took everything, but the test needs queued bytes")
	}
	return data
}

var certificate = func() func(t testing.TB) tls.Certificate {
	var once sync.Once
	var cert tls.Certificate
	return func(t testing.TB) tls.Certificate {
		t.Helper()
		once.Do(func() {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
			der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
			if err != nil {
				t.Fatal(err)
			}
			cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
		})
		return cert
	}
}()
