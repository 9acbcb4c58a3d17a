package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/holdfast/holdfast/internal/siotest/sioclient"
)

// listen connects to the server and reports ticks, until the test ends.
func listen(t *testing.T, url string) <-chan struct{} {
	t.Helper()
	ticks := make(chan struct{}, 1) // one is enough
	c := sioclient.New(sioclient.Options{URL: url})
	c.On("tick", func([]json.RawMessage, func(...any)) {
		select {
		case ticks <- struct{}{}:
		default:
		}
	})
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return ticks
}

// fake is just enough of holdfast for one client of the demo, in one
// namespace, without heartbeats, limits or timers.
type fake struct {
	upstream string

	mu      sync.Mutex
	link    net.Conn // to the legacy server
	client  net.Conn // nil: parked
	open    []byte   // the Engine.IO handshake
	connect []byte   // the CONNECT reply, with a pid
	log     [][]byte // all packets since; the offset of an event is its index
}

func startFake(_ context.Context, _, upstreamURL string) (addr string, stop func(), err error) {
	f := &fake{upstream: "ws" + strings.TrimPrefix(upstreamURL, "http")}
	ts := httptest.NewServer(f)
	return ts.Listener.Addr().String(), func() {
		f.mu.Lock()
		if f.link != nil {
			f.link.Close()
		}
		f.mu.Unlock()
		ts.Close()
	}, nil
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	nc, _, _, err := ws.UpgradeHTTP(r, w)
	if err != nil {
		return
	}
	defer nc.Close()
	f.mu.Lock()
	if f.link == nil {
		link, br, _, err := ws.Dial(r.Context(), f.upstream+r.URL.RequestURI())
		if err != nil {
			f.mu.Unlock()
			return
		}
		if br == nil {
			br = bufio.NewReader(link)
		}
		f.link, f.client = link, nc
		go f.readLink(br) // ends when the link is closed
	} else {
		_ = wsutil.WriteServerText(nc, f.open)
	}
	f.mu.Unlock()
	for {
		data, op, err := wsutil.ReadClientData(nc)
		if err != nil {
			break
		}
		var auth struct {
			PID    string
			Offset string
		}
		f.mu.Lock()
		if json.Unmarshal(bytes.TrimPrefix(data, []byte("40")), &auth) == nil && auth.PID != "" {
			from := 0
			if _, err := fmt.Sscan(auth.Offset, &from); err == nil {
				from++
			}
			f.client = nc
			_ = wsutil.WriteServerText(nc, f.connect)
			for _, p := range f.log[from:] {
				_ = wsutil.WriteServerText(nc, p)
			}
		} else {
			_ = wsutil.WriteClientMessage(f.link, op, data)
		}
		f.mu.Unlock()
	}
	f.mu.Lock()
	if f.client == nc {
		f.client = nil
	}
	f.mu.Unlock()
}

func (f *fake) readLink(br *bufio.Reader) {
	for {
		data, _, err := wsutil.ReadServerData(bufio.NewReadWriter(br, bufio.NewWriter(f.link)))
		if err != nil {
			return
		}
		f.mu.Lock()
		switch {
		case bytes.HasPrefix(data, []byte("0")):
			f.open = data
		case bytes.HasPrefix(data, []byte("40")):
			data = append(bytes.TrimSuffix(data, []byte("}")), `,"pid":"p"}`...)
			f.connect = data
		default:
			if bytes.HasPrefix(data, []byte("42")) {
				data = fmt.Appendf(bytes.TrimSuffix(data, []byte("]")), `,"%d"]`, len(f.log))
			}
			f.log = append(f.log, data)
		}
		if f.client != nil {
			_ = wsutil.WriteServerText(f.client, data)
		}
		f.mu.Unlock()
	}
}
