//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fakeReplica is a Socket.IO server for polling clients, which pings them with every event.
type fakeReplica struct {
	wrong   bool // answers with other events
	posting atomic.Int32

	mu      sync.Mutex // guards clients
	clients map[string]chan string
}

func (f *fakeReplica) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	sid := r.URL.Query().Get("sid")
	f.mu.Lock()
	if sid == "" {
		sid = fmt.Sprintf("s%d", len(f.clients))
		f.clients[sid] = make(chan string, 10)
		f.mu.Unlock()
		_, _ = fmt.Fprintf(w, `0{"sid":%q,"upgrades":[],"pingInterval":25000,"pingTimeout":20000}`, sid)
		return
	}
	packets := f.clients[sid]
	f.mu.Unlock()
	if r.Method == http.MethodGet {
		_, _ = fmt.Fprint(w, <-packets)
		return
	}
	if f.posting.Add(1) > pollers { // each client makes one POST at a time
		http.Error(w, "overlap", http.StatusBadRequest)
	}
	defer f.posting.Add(-1)
	body, _ := io.ReadAll(r.Body)
	switch text := string(body); {
	case text == "40":
		packets <- `40{"sid":"x","pid":"hfx"}`
	case f.wrong:
		packets <- `42["e",999,"` + strings.Repeat("x", 8) + `"]`
	case strings.HasPrefix(text, "42"):
		packets <- "2\x1e" + text
	}
	_, _ = fmt.Fprint(w, "ok")
}

func TestPollingClients(t *testing.T) {
	for _, wrong := range []bool{false, true} {
		f := &fakeReplica{wrong: wrong, clients: make(map[string]chan string)}
		s := httptest.NewServer(f)
		ctx, stop := context.WithCancelCause(t.Context())
		p := &pollingLoad{client: s.Client(), payload: payloadOf(8), stop: stop}
		c, err := p.open(ctx, &proxy{addr: netip.MustParseAddrPort(s.Listener.Addr().String())})
		if err != nil {
			t.Fatal(err)
		}
		p.tasks.Go(func() { c.until(ctx, c.poll) })
		p.tasks.Go(func() { c.until(ctx, c.ask) })
		for ctx.Err() == nil && p.answered.Load() < 20 {
			time.Sleep(time.Millisecond)
		}
		if err := context.Cause(ctx); errors.Is(err, errTrial) != wrong {
			t.Errorf("wrong: %t, after %d round trips: %v", wrong, p.answered.Load(), err)
		}
		stop(nil)
		s.CloseClientConnections()
		f.clients["s0"] <- "6" // a poll that waits
		p.tasks.Wait()
		s.Close()
	}
}

func TestServerWithSeveralPorts(t *testing.T) {
	e := newTestEnv(t)
	b, ports, err := newBackendWithPorts(t.Context(), "server", exec.Command(e.self, serverArg, "-ports", "3"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.stop()
	if len(ports) != 3 {
		t.Errorf("ports %q, want three", ports)
	}
	for _, port := range ports {
		nc, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		nc.Close()
	}
}
