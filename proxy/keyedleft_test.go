package proxy

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/siotest/imitation"
)

// visitor is a client with a key that ends in one of many ways, byte by byte.
type visitor struct {
	random *rand.Rand
	conn   net.Conn
	in     *bufio.Reader
	query  string // of its requests
	polls  bool
	v3     bool
	n      int // of polling requests
}

// visit connects, does a few things, and goes. It keeps a connection that must stay open in silence.
func (v *visitor) visit(url string, keep func(net.Conn)) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		return
	}
	v.conn, v.in = conn, bufio.NewReader(conn)
	_ = conn.SetDeadline(time.Now().Add(v.soon(400))) // fails only if it is closed
	steps := []func() bool{v.handshake, v.connect, v.listen}
	for _, step := range steps[:1+v.random.IntN(len(steps))] {
		if !step() {
			break
		}
	}
	switch v.random.IntN(5) {
	case 0:
		_ = conn.(*net.TCPConn).SetLinger(0) // a reset
		conn.Close()
	case 1:
		_ = conn.(*net.TCPConn).CloseWrite()
		keep(conn)
	case 2, 3:
		keep(conn)
	default:
		conn.Close()
	}
}

// soon returns up to so many milliseconds.
func (v *visitor) soon(most int) time.Duration {
	return time.Duration(1+v.random.IntN(most)) * time.Millisecond
}

// request sends a polling request, and returns the body of the answer.
func (v *visitor) request(method, body string) (answer string, ok bool) {
	v.n++
	_, err := fmt.Fprintf(v.conn, "%s /socket.io/?%s&t=PXyzA1b.%d HTTP/1.1\r\nHost: app\r\nContent-Length: %d\r\n\r\n%s", method, v.query, v.n, len(body), body)
	if err != nil || v.random.IntN(8) == 0 { // cut before the answer
		return "", false
	}
	resp, err := http.ReadResponse(v.in, nil)
	if err != nil {
		return "", false
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err == nil && resp.StatusCode == http.StatusOK
}

func (v *visitor) handshake() bool {
	if v.polls {
		v.query += "&transport=polling"
		answer, ok := v.request(http.MethodGet, "")
		_, rest, found := strings.Cut(answer, `"sid":"`)
		if !ok || !found {
			return false
		}
		sid, _, _ := strings.Cut(rest, `"`)
		v.query += "&sid=" + sid
		return true
	}
	_, err := fmt.Fprintf(v.conn, "GET /socket.io/?%s&transport=websocket HTTP/1.1\r\nHost: app\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", v.query)
	if err != nil || v.random.IntN(8) == 0 {
		return false
	}
	resp, err := http.ReadResponse(v.in, nil) //nolint:bodyclose // the rest is the WebSocket
	return err == nil && resp.StatusCode == http.StatusSwitchingProtocols
}

// connect connects "/", unless that needs no packet, and sometimes "/admin".
func (v *visitor) connect() bool {
	packets := []string{"40", "40/admin,"}
	if v.v3 {
		packets = []string{"", "40/admin"}
	}
	for _, p := range packets[:1+v.random.IntN(2)] {
		if p == "" {
			continue
		}
		if v.polls {
			if v.v3 {
				p = fmt.Sprintf("%d:%s", len(p), p)
			}
			if _, ok := v.request(http.MethodPost, p); !ok {
				return false
			}
		} else if err := ws.WriteFrame(v.conn, ws.MaskFrameInPlace(ws.NewTextFrame([]byte(p)))); err != nil {
			return false
		}
	}
	return true
}

// listen gives signs of life for a while.
func (v *visitor) listen() bool {
	_ = v.conn.SetDeadline(time.Now().Add(v.soon(300))) // fails only if it is closed
	for {
		if v.polls {
			if _, ok := v.request(http.MethodGet, ""); !ok {
				return false
			}
			continue
		}
		f, err := ws.ReadFrame(v.in)
		if err != nil {
			return false
		}
		answer := ws.NewTextFrame([]byte("3"))
		switch {
		case f.Header.OpCode == ws.OpPing:
			answer = ws.NewPongFrame(f.Payload)
		case string(f.Payload) != "2":
			continue
		}
		if err := ws.WriteFrame(v.conn, ws.MaskFrameInPlace(answer)); err != nil {
			return false
		}
	}
}

// Clients with a key race for it, over WebSocket and by polling, in both versions of the protocol.
// They are cut, reset, and left open in silence, at any step. Once their time is up nothing is left
// of them: no client, link, session, key, or wait.
func TestNothingIsLeftOfClientsWithKeys(t *testing.T) {
	short := func(c *config.Config) {
		withKey(c)
		c.EngineIO.PingInterval, c.EngineIO.PingTimeout = 100*time.Millisecond, 150*time.Millisecond
		c.Recovery.MaxDisconnectionDuration = 300 * time.Millisecond
		c.Limits.TakeoversPerMinutePerSession = 0
	}
	t.Run("before a server of Engine.IO 4", func(t *testing.T) { leaveNothing(t, newRig(t, short), false) })
	t.Run("before a server of Engine.IO 3", func(t *testing.T) {
		r, _ := newRigOf(t, imitation.Python, short)
		leaveNothing(t, r, true)
	})
}

func leaveNothing(t *testing.T, r *rig, v3 bool) {
	set := *r.proxy.settings()
	set.aliveTimeout = 30 * time.Millisecond
	r.proxy.current.Store(&set)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var visits sync.WaitGroup
	for i := range 8 {
		visits.Go(func() { // ends with its visits
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			for range 25 {
				v := &visitor{random: random, polls: random.IntN(2) == 0, v3: v3 && random.IntN(3) > 0}
				v.query = fmt.Sprintf("EIO=4&hf_key=0123456789abcdef%d", random.IntN(2))
				if v.v3 {
					v.query = strings.Replace(v.query, "EIO=4", "EIO=3", 1)
				}
				v.visit(r.url, func(conn net.Conn) { t.Cleanup(func() { conn.Close() }) })
			}
		})
	}
	visits.Wait()
	p := r.proxy
	left := func() string {
		live, parked := p.registry.Counts()
		p.conns.mu.Lock()
		clients, links, redials, sids := len(p.conns.clients), len(p.conns.links), p.conns.redials, len(p.conns.sids)
		p.conns.mu.Unlock()
		keys := 0
		for i := range 2 {
			if p.keyring.Has(p.keyring.Digest(fmt.Sprint("0123456789abcdef", i))) {
				keys++
			}
		}
		p.asked.mu.Lock()
		defer p.asked.mu.Unlock()
		return fmt.Sprintf("%d clients, %d links, %d live and %d parked sessions, %d keys, %d waits, %d sids, %d asked",
			clients, links, live, parked, keys, redials, sids, len(p.asked.waiting))
	}
	const nothing = "0 clients, 0 links, 0 live and 0 parked sessions, 0 keys, 0 waits, 0 sids, 0 asked"
	deadline := time.Now().Add(30 * time.Second)
	for left() != nothing {
		if time.Now().After(deadline) {
			t.Fatalf("after 30 seconds there are still %s", left())
		}
		time.Sleep(time.Millisecond) // polls a condition that other goroutines make true
	}
	if p.incomplete.bytes.Load() != 0 {
		t.Errorf("%d bytes of incomplete messages are still counted", p.incomplete.bytes.Load())
	}
}
