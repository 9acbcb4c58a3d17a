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
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// loopIsOff runs the tests with the event loop switched off. "make network" runs them both ways.
var loopIsOff = os.Getenv("TEST_EVENT_LOOP") == "off"

func TestMain(m *testing.M) {
	if err := netpoll.Setup(!loopIsOff); err != nil {
		panic(err)
	}
	// Event loops live as long as the process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/holdfast/holdfast/internal/netpoll.(*loop).run"))
}

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

func TestReadsInOrder(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		ours, peer := n.pair(t)
		r := newRecorder()
		s := n.new(ours, r)
		data := randomBytes(t, 1<<20)
		s.Start(data[:100]) // bytes that were read before
		rest := data[100:]
		for size := 1; len(rest) > 0; size = size*2 + 1 {
			piece := rest[:min(size, len(rest))]
			write(t, peer, piece)
			rest = rest[len(piece):]
		}
		r.awaitBytes(t, data)
		peer.Close()
		wantClosed(t, r, io.EOF)
	})
}

func TestWriteDoesNotBlock(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		s, r, peer := open(t, n)
		for range 2 {
			_, before, _ := r.counts()
			data := fillQueue(t, s)
			_, stuffed, _ := r.counts()
			if n.plain && stuffed != before {
				t.Fatalf("Drained was called while %d bytes are queued", s.Queued())
			}
			readExactly(t, peer, data)
			r.await(t, "Drained", func() bool { return r.drained > stuffed })
			if q := s.Queued(); q != 0 {
				t.Errorf("%d bytes are queued after Drained", q)
			}
			if _, drained, _ := r.counts(); n.plain && drained != before+1 {
				t.Errorf("Drained came %d times, want once", drained-before)
			}
		}
	})
}

func TestQueuedCountsBytesBeingWritten(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		s, _, _ := open(t, n)
		fillQueue(t, s)
		// The kernel may still accept bytes, so the numbers can only fall.
		before := s.Queued()
		got := s.Write([]byte("12345"))
		after := s.Queued()
		if got > before+5 || after > got {
			t.Errorf("Write of 5 bytes returned %d, Queued is %d; %d waited before", got, after, before)
		}
		if after < more/2 {
			t.Errorf("%d of %d bytes are queued, although the peer does not read", after, more)
		}
	})
}

func TestDrainedOnlyIfBytesHadToWait(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		if !n.plain {
			t.Skip("all bytes have to wait")
		}
		s, r, peer := open(t, n)
		for range 100 {
			if queued := s.Write([]byte("hello")); queued != 0 {
				t.Fatalf("%d bytes wait", queued)
			}
			readExactly(t, peer, []byte("hello"))
		}
		s.Close()
		r.awaitClosed(t)
		if _, drained, _ := r.counts(); drained != 0 {
			t.Errorf("Drained came %d times, want none", drained)
		}
	})
}

func TestWritesOfManyGoroutinesStayWhole(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		s, _, peer := open(t, n)
		const writers, each, size = 8, 50, 4 << 10
		for w := range writers {
			go func() {
				p := bytes.Repeat([]byte{byte('a' + w)}, size)
				for range each {
					s.Write(p)
				}
			}()
		}
		if err := peer.SetReadDeadline(time.Now().Add(waitLimit)); err != nil {
			t.Fatal(err)
		}
		block := make([]byte, size)
		seen := make(map[byte]int)
		for range writers * each {
			if _, err := io.ReadFull(peer, block); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(block, bytes.Repeat(block[:1], size)) {
				t.Fatal("two writes are mixed up")
			}
			seen[block[0]]++
		}
		for c, n := range seen {
			if n != each {
				t.Errorf("%d writes of %c, want %d", n, c, each)
			}
		}
	})
}

func TestPause(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		s, r, peer := open(t, n)
		write(t, peer, []byte("before"))
		r.awaitBytes(t, []byte("before"))

		s.Pause() // the reader is waiting for the network by now, or soon will be
		data := randomBytes(t, more)
		if err := peer.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		taken, err := peer.Write(data)
		if err == nil {
			t.Fatal("the peer could write everything, so it was read")
		}
		if read, _, _ := r.counts(); read != len("before") {
			t.Fatalf("%d bytes were read after Pause", read-len("before"))
		}

		s.Resume()
		if n.name == "tls" {
			// A failed write breaks a TLS connection, so only the first bytes are sure to arrive.
			r.await(t, "bytes after Resume", func() bool { return len(r.got) >= len("before")+16<<10 })
			return
		}
		r.awaitBytes(t, append([]byte("before"), data[:taken]...))
	})
}

func TestPauseWithinRead(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		ours, peer := n.pair(t)
		r := newRecorder()
		s := n.new(ours, r)
		calls := make(chan string, 16) // more than the number of calls
		r.onRead = func(p []byte) {
			calls <- string(p)
			s.Pause()
		}
		s.Start([]byte("initial"))
		if got := <-calls; got != "initial" {
			t.Fatalf("read %q first, want initial", got)
		}
		for _, want := range []string{"one", "two"} {
			write(t, peer, []byte(want))
			select {
			case got := <-calls:
				t.Fatalf("read %q while paused", got)
			case <-time.After(20 * time.Millisecond):
			}
			s.Resume()
			if got := <-calls; got != want {
				t.Fatalf("read %q, want %q", got, want)
			}
		}
		s.Close() // while paused
		wantClosed(t, r, netpoll.ErrClosed)
	})
}

func TestPausedBeforeStart(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		ours, peer := n.pair(t)
		r := newRecorder()
		s := n.new(ours, r)
		s.Pause()
		s.Start([]byte("initial "))
		write(t, peer, []byte("later"))
		select {
		case <-r.changed:
			t.Fatal("the handler was called while paused")
		case <-time.After(20 * time.Millisecond):
		}
		s.Resume()
		r.awaitBytes(t, []byte("initial later"))
		s.Close()
		r.awaitClosed(t)
	})
}

func TestDelivered(t *testing.T) {
	everywhere(t, func(t *testing.T, n network) {
		s, _, peer := open(t, n)
		if got := s.Delivered(); got != 0 {
			t.Fatalf("at first: Delivered() = %d", got)
		}
		data := fillQueue(t, s)
		first := s.Delivered()
		if first > more-int64(s.Queued()) {
			t.Errorf("Delivered() = %d, and only %d bytes wait", first, s.Queued())
		}
		readExactly(t, peer, data[:more/2])
		awaitDelivered(t, s, first+1)
		readExactly(t, peer, data[more/2:])
		awaitDelivered(t, s, more)
		if got := s.Delivered(); got != more {
			t.Errorf("Delivered() = %d of %d", got, more)
		}
	})
}

// awaitDelivered polls, because the kernel does not report its progress.
func awaitDelivered(t *testing.T, s netpoll.Stream, want int64) {
	t.Helper()
	for deadline := time.Now().Add(waitLimit); s.Delivered() < want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("Delivered() = %d, want %d", s.Delivered(), want)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, n := range networks {
		if !n.plain {
			continue // would measure the speed of the writer
		}
		b.Run(n.name, func(b *testing.B) {
			ours, peer := n.pair(b)
			go io.Copy(io.Discard, peer) //nolint:errcheck // returns when peer is closed
			r := newRecorder()
			s := n.new(ours, r)
			s.Start(nil)
			msg := make([]byte, 128)
			b.SetBytes(int64(len(msg)))
			b.ReportAllocs()
			for b.Loop() {
				s.Write(msg)
			}
			s.Close()
			r.awaitClosed(b)
		})
	}
}
