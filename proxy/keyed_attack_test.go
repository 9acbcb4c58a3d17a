package proxy

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/siotest/imitation"
	"github.com/holdfast/holdfast/internal/siotest/sioclient"
)

// connectedKeyed returns a client with the reply to its CONNECT.
func connectedKeyed(r *rig, query string) *keyedPeer {
	r.t.Helper()
	p := dialKeyed(r.t, r.url, query, -1)
	p.read(func() bool { return p.id != "" })
	if p.id == "" {
		r.t.Fatalf("no reply for %.40q", query)
	}
	return p
}

// park cuts a client, and waits until its session is parked.
func (r *rig) park(p *keyedPeer) {
	r.t.Helper()
	_, before := r.proxy.registry.Counts()
	if err := p.conn.(*net.TCPConn).SetLinger(0); err != nil {
		r.t.Fatal(err)
	}
	p.conn.Close()
	r.await("parking", func() bool { _, parked := r.proxy.registry.Counts(); return parked > before })
}

// A client that does not know a key gets its own session, however close its guess is.
func TestGuessedKeys(t *testing.T) {
	const key = "0123456789abcdef0123456789abcdef"
	guesses := []string{
		key[:16], key[:31], key + "0", key[1:], strings.ToUpper(key), key + "%20", "%20" + key, key + "%00", key + "%0A", key + ",",
		key[:31] + "&hf_key=" + key, // the first one counts
		strings.Repeat("0", 32), strings.Repeat("%FF", 16), strings.Repeat("%F0%9F%98%80", 4), strings.Repeat("*", 16), key[:31] + "%2A",
	}
	for i := range 16 {
		guesses = append(guesses, key[:31]+fmt.Sprintf("%x", (i+1)%16)+"x")
	}
	r := newRig(t, withKey)
	p := connectedKeyed(r, "hf_key="+key)
	id := p.id
	r.park(p)
	for _, guess := range guesses {
		thief := connectedKeyed(r, "hf_key="+guess)
		if thief.id == id {
			t.Errorf("%q gets the session of %q", guess, key)
		}
		thief.conn.Close()
	}
	same := connectedKeyed(r, "hf%5Fkey=%30"+key[1:]) // another spelling of the same
	if same.id != id {
		t.Error("the key itself does not")
	}
	if strings.Contains(r.logs.String(), key[:16]) {
		t.Error("a key is logged")
	}
}

// A pid that a client with a key presents is ignored: the key wins.
func TestKeyBesidePID(t *testing.T) {
	r := newRig(t, withKey)
	victim := sioclient.New(sioclient.Options{URL: r.url})
	if err := victim.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.socket(0).Emit("n", 1)
	r.await("an offset", func() bool { return victim.Offset() != "" })
	pid, offset, id := victim.PID(), victim.Offset(), victim.ID()
	victim.Cut()
	r.await("parking", func() bool { _, parked := r.proxy.registry.Counts(); return parked == 1 })

	thief := openKeyed(t, r.url, "hf_key=0011223344556677", -1)
	thief.send(fmt.Sprintf(`40{"pid":%q,"offset":%q}`, pid, offset))
	thief.read(func() bool { return thief.id != "" })
	if thief.id == id {
		t.Error("a client with a key resumed by a pid")
	}
	if err := victim.Reconnect(t.Context()); err != nil || victim.ID() != id || !victim.Recovered() {
		t.Errorf("its owner: %v, id %s of %s", err, victim.ID(), id)
	}
	victim.Close()
}

// A client that changes its key is another client. The old session waits for the old key.
func TestChangedKey(t *testing.T) {
	r := newRig(t, withKey)
	first := connectedKeyed(r, "hf_key=first-key-0123456789")
	r.park(first)
	second := connectedKeyed(r, "hf_key=second-key-0123456789")
	if second.id == first.id {
		t.Error("another key has the session")
	}
	r.park(second)
	for query, id := range map[string]string{"hf_key=first-key-0123456789": first.id, "hf_key=second-key-0123456789": second.id} {
		if p := connectedKeyed(r, query); p.id != id {
			t.Errorf("%s has %s, want %s", query, p.id, id)
		}
	}
}

// Keys as long as a request's head allows are keys, and longer ones are refused with the request.
func TestLongKeys(t *testing.T) {
	r := newRig(t, withKey)
	for _, length := range []int{16, 100, 4000} {
		query := "hf_key=" + strings.Repeat("k", length)
		p := connectedKeyed(r, query)
		r.park(p)
		if again := connectedKeyed(r, query); again.id != p.id {
			t.Errorf("a key of %d characters is none", length)
		}
	}
	resp, err := http.Get(r.url + "/socket.io/?EIO=4&transport=polling&hf_key=" + strings.Repeat("k", 2<<20)) //nolint:noctx // the rig closes it
	if err != nil {
		return // closed in the middle of it
	}
	defer resp.Body.Close()
	if resp.StatusCode < 400 {
		t.Errorf("status %d for a key of 2 MiB", resp.StatusCode)
	}
}

// A client that closes just as its CONNECT is handled does not keep its key: the next one would ask
// it for ever.
func TestClosedClientClaimsNoKey(t *testing.T) {
	const query = "hf_key=0123456789abcdef"
	r := newRig(t, withKey)
	openKeyed(t, r.url, query, -1)
	r.await("the client", func() bool { return len(r.proxy.conns.allClients()) == 1 })
	c := r.proxy.conns.allClients()[0]
	c.abort(reason.TransportClose)
	c.sock.Input(func() { c.Message([]byte("0"), false) })
	if r.proxy.keyring.Has(c.keyed.key) {
		t.Error("a closed client has its key")
	}
	connectedKeyed(r, query)
}

// A client of Engine.IO 3 has its key before its handshake is answered. If the handshake fails, or
// another client takes the key over meanwhile, nothing of the client stays.
func TestFailedHandshakeOfAKeyedClient(t *testing.T) {
	r, _ := newRigOf(t, imitation.Python, nil)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/socket.io/?EIO=3&transport=websocket&hf_key=0123456789abcdef", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Version": {"8"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="}}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode < 400 {
		t.Fatal("status", resp.StatusCode)
	}
	r.await("the key to be free", func() bool { return !r.proxy.keyring.Has(r.proxy.keyring.Digest("0123456789abcdef")) })

	keyed := &keyedClient{key: r.proxy.keyring.Digest("fedcba9876543210"), v3: true}
	c := newClient(r.proxy.deps, 1, engineio.Request{WebSocket: true}, "sid", engineio.Options{Protocol: engineio.V3}, true, keyed)
	keyedReceiver{&c.receiver}.claimAtHandshake()
	c.abort(reason.Takeover)
	r.proxy.handshaker.opened(c, req)
	if r.proxy.conns.client("sid") != nil {
		t.Error("a client that has ended is found by its sid")
	}
}

// Live clients with one key that connect and leave at the same time never share a session.
func TestSameKeyAtTheSameTime(t *testing.T) {
	r := newRig(t, func(c *config.Config) {
		withKey(c)
		c.Limits.TakeoversPerMinutePerSession = 0
	})
	dial := func() *imitation.Client {
		c, err := imitation.Dial(imitation.Dart, imitation.WebSocket, strings.TrimPrefix(r.url, "http://"), imitatedKey)
		if err != nil {
			t.Error(err)
			return nil
		}
		t.Cleanup(c.Cut)
		return c
	}
	for range 3 {
		clients := make([]*imitation.Client, 6)
		var all sync.WaitGroup
		for i := range clients {
			all.Go(func() { clients[i] = dial() })
		}
		all.Wait()
		if t.Failed() {
			return
		}
		for _, c := range clients {
			r.await("a reply, or the end", func() bool { return c.ID() != "" || c.Ended() })
		}
		// On a busy machine one may be taken over because it does not answer in time. It then ends.
		r.await("each session to have one client", func() bool {
			ids := make(map[string]bool)
			for _, c := range clients {
				if !c.Ended() && ids[c.ID()] {
					return false
				}
				ids[c.ID()] = ids[c.ID()] || !c.Ended()
			}
			return true
		})
		for _, c := range clients {
			c.Cut()
		}
		r.await("all to be gone", func() bool { live, parked := r.proxy.registry.Counts(); return live == 0 && parked <= 1 })
	}
	p := connectedKeyed(r, imitatedKey)
	r.park(p)
	if again := connectedKeyed(r, imitatedKey); again.id != p.id {
		t.Error("the key has no session any more")
	}
}
