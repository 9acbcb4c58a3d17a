package cluster

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// pair is a connection between two replicas.
type pair struct {
	dialer, server *conn
	streams        chan *Stream // that the dialler has opened
	pipe           net.Conn
}

type pairEvents struct{ p *pair }

func (e pairEvents) opened(s *Stream)              { e.p.streams <- s }
func (e pairEvents) noted(byte, []byte)            {}
func (e pairEvents) answered(time.Duration, int64) {}
func (e pairEvents) ended(error)                   {}

func newPair(t testing.TB) *pair {
	p := &pair{streams: make(chan *Stream, 100)}
	near, far := net.Pipe()
	p.pipe = near
	k := keys(t, secretA)
	done := make(chan error, 1)
	go func() {
		var err error
		p.server, err = connect(context.Background(), far, k, hello{ID: idB}, false)
		done <- err
	}()
	var err error
	if p.dialer, err = connect(context.Background(), near, k, hello{ID: idA}, true); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	p.server.start(pairEvents{p})
	p.dialer.start(pairEvents{p})
	return p
}

func (p *pair) open() (near, far *Stream) {
	near = p.dialer.open('t', nil, nil, false)
	return near, <-p.streams
}

func (p *pair) close() {
	p.dialer.close(netpoll.ErrClosed)
	p.server.close(netpoll.ErrClosed)
	time.Sleep(time.Minute)
	synctest.Wait()
}

// taker is a Handler that records what it gets.
type taker struct {
	mu      sync.Mutex
	got     []byte
	flushes int
	drained int
	closed  error
	inside  int // calls in progress
	overlap bool
}

func (h *taker) enter() func() {
	h.mu.Lock()
	h.inside++
	h.overlap = h.overlap || h.inside > 1
	h.mu.Unlock()
	return func() {
		h.mu.Lock()
		h.inside--
		h.mu.Unlock()
	}
}

func (h *taker) Read(p []byte) {
	defer h.enter()()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.got = append(h.got, p...)
}

func (h *taker) Flush() {
	defer h.enter()()
	h.flushes++
}

func (h *taker) Drained() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drained++
}

func (h *taker) Closed(err error) {
	defer h.enter()()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = err
}

// A stream that is not read stops its writer at the window, and no other stream.
func TestSlowStreamHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		slow, slowFar := p.open()
		fast, fastFar := p.open()
		var h, other, writer taker
		in := netpoll.New(slowFar, &h)
		in.Pause()
		in.Start(nil)
		netpoll.New(fastFar, &other).Start(nil)
		out := netpoll.New(slow, &writer)
		out.Start(nil)
		data := bytes.Repeat([]byte("0123456789abcdef"), windowBytes/8) // twice the window
		if queued := out.Write(data); queued != len(data)-windowBytes {
			t.Errorf("%d bytes wait, want %d", queued, len(data)-windowBytes)
		}
		for range 100 {
			if _, err := fast.Write(make([]byte, 10<<10)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if len(other.got) != 1000<<10 || len(h.got) != 0 || out.Queued() == 0 || writer.drained != 0 {
			t.Errorf("the other stream got %d bytes, this one %d; %d wait", len(other.got), len(h.got), out.Queued())
		}
		in.Resume()
		synctest.Wait()
		if !bytes.Equal(h.got, data) || out.Queued() != 0 || writer.drained != 1 || h.flushes == 0 {
			t.Errorf("got %d bytes of %d, %d wait, %d times drained", len(h.got), len(data), out.Queued(), writer.drained)
		}
		p.close()
		synctest.Wait()
	})
}

func TestEndsOfAStream(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(p *pair, near netpoll.Stream)
		want error
	}{
		{"Shutdown", func(_ *pair, near netpoll.Stream) { near.Shutdown(time.Second) }, io.EOF},
		{"Close", func(_ *pair, near netpoll.Stream) { near.Close() }, ErrReset},
		{"the connection breaks", func(p *pair, _ netpoll.Stream) { p.pipe.Close() }, netpoll.ErrPeerLost},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				near, far := p.open()
				var a, b taker
				out, in := netpoll.New(near, &a), netpoll.New(far, &b)
				out.Start(nil)
				in.Start(nil)
				out.Write([]byte("last words"))
				synctest.Wait()
				tt.end(p, out)
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if !errors.Is(b.closed, tt.want) || string(b.got) != "last words" {
					t.Errorf("got %q, then %v; want %v", b.got, b.closed, tt.want)
				}
				if a.closed == nil {
					t.Error("this side does not hear of the end")
				}
				if n := p.dialer.count() + p.server.count(); n != 0 {
					t.Errorf("%d streams are left", n)
				}
				p.close()
				synctest.Wait()
			})
		})
	}
}

// A handler that takes nothing still learns of its stream's end, unless the end is orderly.
func TestEndOfAStalledStream(t *testing.T) {
	for name, end := range map[string]func(p *pair, far *Stream){
		"reset":          func(_ *pair, far *Stream) { _ = far.Close() },
		"connection cut": func(p *pair, _ *Stream) { p.pipe.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				near, far := p.open()
				var h taker
				s := netpoll.New(near, &h)
				s.Pause()
				s.Start(nil)
				if _, err := far.Write(make([]byte, 1000)); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				end(p, far)
				synctest.Wait()
				if h.closed == nil {
					t.Error("the handler has not heard of it")
				}
				p.close()
			})
		})
	}
}

func TestStreamAsNetConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		near, far := p.open()
		go func() {
			_, _ = io.Copy(far, far)
			_ = far.CloseWrite()
		}()
		data := bytes.Repeat([]byte{1, 2, 3}, 1<<20)
		go func() {
			_, _ = near.Write(data)
			_ = near.CloseWrite()
		}()
		got, err := io.ReadAll(near)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("got %d bytes of %d, %v", len(got), len(data), err)
		}
		near, far = p.open()
		_ = near.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after the deadline: %v", err)
		}
		var ended error
		far.OnEnd(func(err error) { ended = err })
		_ = near.Close()
		synctest.Wait()
		if !errors.Is(ended, ErrReset) {
			t.Errorf("OnEnd got %v", ended)
		}
		p.close()
		synctest.Wait()
	})
}

// Whatever the two sides of several streams do, bytes arrive once and in order, and no handler is
// called concurrently.
func TestStreamModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rapid.SyncTest(rt, func(rt *rapid.T) {
			p := newPair(t)
			defer func() { // also if rapid ends the run
				p.close()
				synctest.Wait()
			}()
			type side struct {
				stream netpoll.Stream
				h      taker
				sent   []byte
				over   bool
			}
			var sides [][2]*side
			for range rapid.IntRange(1, 3).Draw(rt, "streams") {
				near, far := p.open()
				a, b := &side{}, &side{}
				a.stream, b.stream = netpoll.New(near, &a.h), netpoll.New(far, &b.h)
				a.stream.Start(nil)
				b.stream.Start(nil)
				sides = append(sides, [2]*side{a, b})
			}
			next := byte(0)
			for range rapid.IntRange(1, 40).Draw(rt, "steps") {
				pair := sides[rapid.IntRange(0, len(sides)-1).Draw(rt, "stream")]
				i := rapid.IntRange(0, 1).Draw(rt, "side")
				s, other := pair[i], pair[1-i]
				switch rapid.SampledFrom([]string{"write", "write", "write", "pause", "resume", "settle", "shutdown"}).Draw(rt, "what") {
				case "write":
					b := make([]byte, rapid.SampledFrom([]int{1, 100, 20 << 10, 300 << 10}).Draw(rt, "bytes"))
					for k := range b {
						b[k] = next
						next++
					}
					if !s.over && !other.over {
						s.sent = append(s.sent, b...)
						s.stream.Write(b)
					}
				case "pause":
					s.stream.Pause()
				case "resume":
					s.stream.Resume()
				case "settle":
					synctest.Wait()
				case "shutdown":
					if !other.over {
						s.over = true
						s.stream.Shutdown(time.Minute)
					}
				}
			}
			for _, pair := range sides {
				pair[0].stream.Resume()
				pair[1].stream.Resume()
			}
			synctest.Wait()
			for n, pair := range sides {
				for i, s := range pair {
					other := pair[1-i]
					if s.h.overlap {
						rt.Fatalf("stream %d: calls of one handler overlap", n)
					}
					if !bytes.HasPrefix(other.sent, s.h.got) {
						rt.Fatalf("stream %d: bytes are lost or in a wrong order", n)
					}
					if len(s.h.got) < len(other.sent) && !s.over {
						rt.Fatalf("stream %d: got %d bytes of %d", n, len(s.h.got), len(other.sent))
					}
				}
			}
		})
	})
}

// Whatever bytes a peer sends, the reader neither panics nor keeps much.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{}, true)
	f.Add(appendHeader(nil, framePing, 0, 0), true)
	f.Add(append(appendHeader(nil, frameOpen, 1, 3), "tab"...), false)
	f.Add(append(append(append(appendHeader(nil, frameOpen, 1, 1), 't'), appendHeader(nil, frameData, 1, 2)...), "xy"...), false)
	f.Add(append(appendHeader(nil, frameWindow, 1, 4), 255, 255, 255, 255), true)
	f.Add(appendHeader(appendHeader(appendHeader(nil, frameFin, 1, 0), frameReset, 1, 0), frameBye, 0, 0), true)
	f.Add(append(appendHeader(nil, frameNote, 0, 2), "ab"...), false)
	f.Fuzz(func(t *testing.T, p []byte, dialed bool) {
		c := &conn{dialed: dialed, streams: make(map[uint32]*Stream), err: errProtocol, socket: &socket{}}
		pr := &pair{streams: make(chan *Stream, 1+len(p))}
		c.events = pairEvents{pr}
		c.err = nil
		c.congested = true // nothing can be written
		s := newStream(c, 1)
		c.streams[1] = s
		defer func() { c.err = errProtocol }()
		c.tls = nil
		_ = safelyFrames(c, p)
		if len(c.control) > maxControl || len(s.in) > windowBytes {
			t.Errorf("%d and %d bytes are kept", len(c.control), len(s.in))
		}
	})
}

// safelyFrames feeds frames to a conn that cannot write.
func safelyFrames(c *conn, p []byte) error {
	c.mu.Lock()
	c.err = errProtocol // send and flush do nothing then
	c.mu.Unlock()
	return c.frames(p)
}

// A stream may begin with its data, and with its end. The other side answers, and nothing is left.
func TestStreamBeginsWithData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		defer p.close()
		for _, first := range []string{"", "all of it", strings.Repeat("x", MaxFirst)} {
			near := p.dialer.open('t', []byte("about"), []byte(first), true)
			far := <-p.streams
			got, err := io.ReadAll(far)
			if string(got) != first || err != nil || string(far.About()) != "about" {
				t.Errorf("%d bytes: got %d, %v; about %q", len(first), len(got), err, far.About())
			}
			far.Append([]byte("the answer"))
			_ = far.CloseWrite()
			if got, err := io.ReadAll(near); string(got) != "the answer" || err != nil {
				t.Errorf("answer: %q, %v", got, err)
			}
			_ = near.Close()
			synctest.Wait()
			if p.dialer.count() != 0 || p.server.count() != 0 {
				t.Errorf("%d and %d streams are left", p.dialer.count(), p.server.count())
			}
		}
		near := p.dialer.open('t', nil, []byte("begun"), false)
		far := <-p.streams
		_, _ = near.Write([]byte(" and ended"))
		_ = near.CloseWrite()
		if got, err := io.ReadAll(far); string(got) != "begun and ended" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		// The other side learns that an ended stream is abandoned.
		ended := p.dialer.open('t', nil, nil, true)
		far = <-p.streams
		told := make(chan error, 1)
		far.OnEnd(func(err error) { told <- err })
		_ = ended.Close()
		if err := <-told; !errors.Is(err, ErrReset) {
			t.Errorf("told %v, want ErrReset", err)
		}
	})
}
