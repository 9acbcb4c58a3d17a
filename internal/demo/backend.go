package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/siotest/sioserver"
)

// backend is the legacy server: a small application that knows nothing about
// recovery.
type backend struct {
	addr string // immutable
	sio  *sioserver.Server
	http *http.Server
	done chan struct{} // closed when http has stopped serving

	mu       sync.Mutex        // guards visitors
	visitors map[string]visits // by name
}

// visits is what the server saw of a client of the story.
type visits struct {
	connections int
	disconnects int
	reason      string // of the last disconnect
}

func startBackend(addr string) (*backend, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	b := &backend{
		addr:     ln.Addr().String(),
		sio:      sioserver.New(sioserver.Options{CORSOrigin: "*"}),
		done:     make(chan struct{}),
		visitors: make(map[string]visits),
	}
	b.sio.OnConnect("/", b.onConnect)
	b.http = &http.Server{Handler: b.sio, ReadHeaderTimeout: 10 * time.Second}
	go func() { // ends with stop
		defer close(b.done)
		_ = b.http.Serve(ln) // returns only when stop closes it
	}()
	return b, nil
}

func (b *backend) url() string { return "http://" + b.addr }

func (b *backend) stop() {
	b.sio.Close()
	_ = b.http.Close() // its error does not matter
	<-b.done
}

func (b *backend) onConnect(s *sioserver.Socket) error {
	s.On("echo", func(args []json.RawMessage, ack func(...any)) {
		values := make([]any, len(args))
		for i, a := range args {
			values[i] = a
		}
		if ack != nil {
			ack(values...)
			return
		}
		s.Emit("echo", values...)
	})
	name := s.Handshake.Query.Get("visitor")
	if name == "" {
		return nil
	}
	s.Join(name)
	b.note(name, func(v *visits) { v.connections++ })
	s.OnDisconnect(func(reason string) {
		b.note(name, func(v *visits) { v.disconnects++; v.reason = reason })
	})
	return nil
}

func (b *backend) note(name string, change func(*visits)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.visitors[name]
	change(&v)
	b.visitors[name] = v
}

func (b *backend) visits(name string) visits {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.visitors[name]
}

// message sends a numbered message to a visitor.
func (b *backend) message(visitor string, n int) { b.sio.To(visitor).Emit("message", n) }

// tick sends an event to all clients every second until ctx is done.
func (b *backend) tick(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			b.sio.Emit("tick", n, now.Format(time.TimeOnly))
		}
	}
}
