package engineio

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// httpServer is a server whose connections a test serves.
type httpServer struct {
	t        *testing.T
	listener net.Listener

	mu       sync.Mutex // guards the fields below
	bodies   []string   // of the requests received
	accepted int        // connections
	ended    int        // connections closed by the client
}

// newHTTPServer calls serve for each request of a connection, until it returns false.
func newHTTPServer(t *testing.T, serve func(conn net.Conn, request int, body string) bool) *httpServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &httpServer{t: t, listener: l}
	var running sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.accepted++
			s.mu.Unlock()
			running.Go(func() {
				defer func() {
					conn.Close()
					s.mu.Lock()
					s.ended++
					s.mu.Unlock()
				}()
				br := bufio.NewReader(conn)
				for i := 0; ; i++ {
					r, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					body, err := io.ReadAll(r.Body)
					if err != nil {
						return
					}
					s.mu.Lock()
					s.bodies = append(s.bodies, string(body))
					s.mu.Unlock()
					if !serve(conn, i, string(body)) {
						return
					}
				}
			})
		}
	})
	return s
}

func (s *httpServer) got() (bodies []string, connections int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.bodies...), s.accepted
}

// awaitCloses waits until the server has closed all its connections.
func (s *httpServer) awaitCloses() {
	for deadline := time.Now().Add(testTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		s.mu.Lock()
		done := s.ended == s.accepted
		s.mu.Unlock()
		if done {
			return
		}
	}
	s.t.Error("the server left connections open")
}

func (s *httpServer) client() *keepAlive {
	k := &keepAlive{dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", s.listener.Addr().String())
	}}
	s.t.Cleanup(k.Close)
	return k
}

func postOnce(k *keepAlive, body string) (status int, answer string, err error) {
	request := fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	resp, data, err := k.do(ctx, http.MethodPost, []byte(request), readRefusal)
	if err != nil {
		return 0, "", err
	}
	return resp.status, string(data), nil
}

func say(conn net.Conn, header string) bool {
	_, err := fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n%sContent-Length: 2\r\n\r\nok", header)
	return err == nil
}

func TestKeepAliveAnswers(t *testing.T) {
	for _, tt := range []struct {
		name, answer string
		status       int
		body         string
		kept         bool
	}{
		{"plain", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", true},
		{"empty", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "", true},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", 200, "ok", true},
		{"chunked with a trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n", 200, "ok", true},
		{"behind interim answers", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", true},
		{"without a body", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", true},
		{"the last on its connection", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 200, "ok", false},
		{"of HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", false},
		{"up to the end of the connection", "HTTP/1.1 200 OK\r\n\r\nok", 200, "ok", false},
		{"with more behind it", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", 200, "ok", false},
		{"soon to be closed", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=0\r\nContent-Length: 2\r\n\r\nok", 200, "ok", false},
		{"a refusal", "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno", 413, "no", true},
		{"a long refusal", "HTTP/1.1 404 Not Found\r\nContent-Length: 2000000\r\n\r\n" + strings.Repeat("x", 2_000_000), 404, strings.Repeat("x", maxRejectionBytes), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newHTTPServer(t, func(conn net.Conn, _ int, _ string) bool {
				_, err := io.WriteString(conn, tt.answer)
				return err == nil && tt.answer != "HTTP/1.1 200 OK\r\n\r\nok"
			})
			k := s.client()
			for range 2 {
				if status, body, err := postOnce(k, "x"); status != tt.status || body != tt.body || err != nil {
					t.Fatalf("got %d, %d bytes, %v", status, len(body), err)
				}
			}
			want := 2
			if tt.kept {
				want = 1
			}
			if _, connections := s.got(); connections != want {
				t.Errorf("%d connections for two requests, want %d", connections, want)
			}
		})
	}
}

// If a server closes an idle connection, no POST is lost or sent twice.
func TestKeepAliveSurvivesIdleCloses(t *testing.T) {
	for _, idle := range []time.Duration{time.Millisecond, 50 * time.Millisecond, 1500 * time.Millisecond} {
		t.Run(idle.String(), func(t *testing.T) {
			s := newHTTPServer(t, func(conn net.Conn, _ int, _ string) bool {
				ok := say(conn, "")
				return conn.SetReadDeadline(time.Now().Add(idle)) == nil && ok
			})
			var want []string
			var clients sync.WaitGroup
			n := 8
			if idle < maxIdle {
				n = 1 // wait for each close: a POST that crosses it is lost
			}
			for c := range n {
				for i := range 4 {
					want = append(want, fmt.Sprintf("%d.%d", c, i))
				}
				clients.Go(func() {
					k := s.client()
					for i := range 4 {
						if status, _, err := postOnce(k, fmt.Sprintf("%d.%d", c, i)); status != 200 {
							t.Errorf("POST %d.%d: %d, %v", c, i, status, err)
						}
						if idle < maxIdle {
							s.awaitCloses()
						} else {
							time.Sleep(idle) // tests time on the network
						}
					}
				})
			}
			clients.Wait()
			got, _ := s.got()
			seen := make(map[string]int)
			for _, body := range got {
				seen[body]++
			}
			for _, body := range want {
				if seen[body] != 1 {
					t.Errorf("POST %s came %d times", body, seen[body])
				}
			}
		})
	}
}

// A request that the server may have handled is not repeated.
func TestKeepAliveSendsNothingTwice(t *testing.T) {
	s := newHTTPServer(t, func(conn net.Conn, i int, _ string) bool { return i == 0 && say(conn, "") })
	k := s.client()
	if _, _, err := postOnce(k, "first"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := postOnce(k, "second"); err == nil {
		t.Error("no error for a POST that was not answered")
	}
	if got, connections := s.got(); len(got) != 2 || connections != 1 {
		t.Errorf("the server got %q over %d connections", got, connections)
	}
}

// If a server answers without reading the body, and closes, its answer still counts.
func TestKeepAliveReadsAnEarlyRefusal(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
		_ = conn.(*net.TCPConn).CloseWrite()
		time.Sleep(100 * time.Millisecond) // the unread body fills the buffers
		conn.Close()
	}()
	k := &keepAlive{dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", l.Addr().String())
	}}
	defer k.Close()
	status, _, err := postOnce(k, strings.Repeat("x", 64<<20))
	if status != 413 && !errors.Is(err, errUnsent) {
		t.Errorf("got %d, %v", status, err)
	}
}

func TestKeepAliveExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		ended := make(chan struct{}, 4)
		k := &keepAlive{dial: func(context.Context) (net.Conn, error) {
			dials++
			ours, theirs := net.Pipe()
			go func() {
				defer func() { ended <- struct{}{} }()
				br := bufio.NewReader(theirs)
				for {
					r, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, r.Body)
					say(theirs, "")
				}
			}()
			return ours, nil
		}}
		do := func() {
			t.Helper()
			if _, _, err := postOnce(k, "x"); err != nil {
				t.Fatal(err)
			}
		}
		do()
		time.Sleep(maxIdle - time.Millisecond)
		do()
		if dials != 1 {
			t.Errorf("%d connections for two requests within a second", dials)
		}
		time.Sleep(maxIdle)
		synctest.Wait()
		if len(ended) != 1 {
			t.Error("an idle connection is open after a second")
		}
		do()
		if dials != 2 {
			t.Errorf("%d connections, want another after a second", dials)
		}
		k.Close()
		synctest.Wait()
		if len(ended) != 2 {
			t.Error("an idle connection is open after Close")
		}
		do()
		synctest.Wait()
		if len(ended) != 3 {
			t.Error("a connection was kept after Close")
		}
	})
}

func TestKeepAliveEndsWithItsContext(t *testing.T) {
	s := newHTTPServer(t, func(conn net.Conn, _ int, _ string) bool {
		_, _ = conn.Read(make([]byte, 1)) // until the client closes
		return false
	})
	k := s.client()
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(10*time.Millisecond, cancel)
	_, _, err := k.do(ctx, http.MethodGet, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), io.ReadAll)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Conns do not share connections.
func TestPollingLinksShareNoConnections(t *testing.T) {
	s := newServer(t, false)
	byConn := make(map[string]string) // remote address to user
	seen := func(x *exchange) *exchange {
		user := x.URL.Query().Get("user")
		if other, ok := byConn[x.RemoteAddr]; ok && other != user {
			t.Errorf("requests of %s and %s over one connection", other, user)
		}
		byConn[x.RemoteAddr] = user
		return x
	}
	for i := range 6 {
		r := clientRequest(false)
		r.RawQuery = fmt.Sprintf("EIO=4&transport=polling&user=%d", i)
		d := dial(s, r)
		seen(s.handshake(t)).answer(http.StatusOK, serverHandshake.with(nil))
		c := d.open(t)
		begin(t, c)
		seen(s.poll(t)).answer(http.StatusOK, "6")
		c.Send([]byte("x"), nil)
		c.Flush()
		seen(s.post(t)).answer(http.StatusOK, "ok")
		p := seen(s.poll(t))
		c.Close()
		_ = p
		seen(s.post(t)).answer(http.StatusOK, "ok") // CLOSE
	}
	users := make(map[string]int)
	for _, user := range byConn {
		users[user]++
	}
	for user, n := range users {
		if n > 2 {
			t.Errorf("%d connections of user %s, want one for polls and one for POSTs", n, user)
		}
	}
}

// If a server learns of its own sids late, as in a cluster, nothing fails. If it forgets a sid, the
// Conn ends.
func TestPollingLinkOutrunsItsSID(t *testing.T) {
	const unknown = `{"code":1,"message":"Session ID unknown"}`
	s := newServer(t, false)
	d := dial(s, clientRequest(false))
	s.handshake(t).answer(http.StatusOK, serverHandshake.with(nil))
	c := d.open(t)
	l := begin(t, c)
	c.Send([]byte("x"), nil)
	c.Flush()
	for range 3 {
		s.poll(t).answer(http.StatusBadRequest, unknown)
		x := s.post(t)
		if x.body != "4x" {
			t.Errorf("posted %q", x.body)
		}
		x.answer(http.StatusBadRequest, unknown)
	}
	s.post(t).answer(http.StatusOK, "ok")
	s.poll(t).answer(http.StatusOK, "4hello")
	l.want(t, "4hello")
	s.poll(t).answer(http.StatusBadRequest, unknown) // it knew the sid before
	l.awaitThat(t, "Closed", func() bool { return slices.Contains(l.log, "closed") })
}
