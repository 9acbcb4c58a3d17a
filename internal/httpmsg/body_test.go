package httpmsg

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Each 8 KiB received extend the deadline by a second. Large bodies get more time; a trickle does
// not.
func TestBodyTimeout(t *testing.T) {
	const timeout = 10 * time.Second
	tests := []struct {
		name           string
		bytesPerSecond int
		whole          bool
	}{
		{"16 KiB a second", 16 << 10, true},
		{"4 KiB a second", 4 << 10, false},
		{"nothing", 0, false},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			const size = 1 << 20
			ours, theirs := net.Pipe()
			read := make(chan int64, 1)
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n, _ := io.Copy(io.Discard, WatchBody(w, r, timeout).Body)
				read <- n
			})}
			conns := make(chan net.Conn, 1)
			conns <- ours
			go srv.Serve(pipeListener(conns))  //nolint:errcheck // returns when srv is closed
			defer func() { _ = srv.Close() }() // the test is over
			go func() {
				_, _ = io.WriteString(theirs, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n")
				for range size / (1 << 10) {
					if tt.bytesPerSecond == 0 {
						return
					}
					time.Sleep(time.Second / time.Duration(tt.bytesPerSecond>>10))
					if _, err := io.WriteString(theirs, strings.Repeat("x", 1<<10)); err != nil {
						return
					}
				}
			}()
			if n := <-read; (n == size) != tt.whole {
				t.Errorf("%s: %d bytes were read of %d", tt.name, n, size)
			}
			theirs.Close()
			time.Sleep(time.Second) // until net/http has closed its end
		})
	}
}

// pipeListener is a listener whose connections come from a channel.
type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	if c, ok := <-l; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l pipeListener) Close() error {
	close(l)
	return nil
}

func (pipeListener) Addr() net.Addr { return &net.TCPAddr{} }
