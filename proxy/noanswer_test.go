package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/internal/config"
)

// A client that has only closed its sending side still reads. What was not handled for it must not
// look like a success: over polling, its events would be lost without a trace.
func TestHalfClosedClientIsNotToldOfSuccess(t *testing.T) {
	arrived := make(chan struct{}, 1)
	r := newRig(t, func(c *config.Config) { c.Upstream.URL = config.URLs{hangingUpstream(t, c.Upstream.URL[0], arrived)} })
	sid := r.handshake()
	for _, tt := range []struct {
		name, request string
		hangs         bool // at the upstream
	}{
		{"poll", "GET /socket.io/?EIO=4&transport=polling&sid=" + sid, false},
		{"handshake", "GET /socket.io/?EIO=4&transport=polling&hang=1", true},
		{"request that passes through", "POST /orders?hang=1", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := r.send(tt.request, "x")
			if tt.hangs {
				<-arrived
			}
			wantNoSuccess(t, conn)
		})
	}
}

// hangingUpstream is in front of an upstream. A request with "hang" tells arrived, and then waits
// until it is given up.
func hangingUpstream(t *testing.T, base string, arrived chan<- struct{}) string {
	t.Helper()
	target, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	behind := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !r.URL.Query().Has("hang") {
			behind.ServeHTTP(w, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body) // so that net/http notices the end of the connection
		arrived <- struct{}{}
		<-r.Context().Done()
	}))
	t.Cleanup(up.Close)
	return up.URL
}

// A replica may not reach the one that the client's sid names. Then a POST must fail, too. An event
// was lost like that, and later ones arrived over the connection that healed.
func TestHalfClosedClientOfAnotherReplica(t *testing.T) {
	rigs, network := newPipedReplicas(t, 2, nil)
	at := rigs[1]
	target := "POST /socket.io/?EIO=4&transport=polling&sid=" + rigs[0].handshake()
	if got := at.answer(at.send(target, "40")); !strings.HasSuffix(got, "ok") {
		t.Fatalf("a forwarded POST is answered with %q", got)
	}
	network.hole(0, 1, true)
	network.hole(1, 0, true)
	network.cut(0, 1)
	at.await("the other replica's end", func() bool { return at.replicasUp() == 0 })
	wantNoSuccess(t, at.send(target, `42["n",1]`))
}

// newPipedReplicas is newReplicaRigs for replicas whose connections to each other can be broken.
func newPipedReplicas(t *testing.T, n int, change func(*config.Config)) (rigs []*rig, network *peerNetwork) {
	t.Helper()
	keys, err := cluster.NewKeys([]string{"a secret of the tests, which has enough bytes"})
	if err != nil {
		t.Fatal(err)
	}
	network = newPeerNetwork()
	var addresses []string
	for i := range n {
		rigs, addresses = append(rigs, newRig(t, change)), append(addresses, peerAddress(i))
	}
	t.Cleanup(network.close)
	t.Cleanup(network.heal)
	for i, r := range rigs {
		node := r.proxy.JoinCluster(cluster.Options{
			ID: fmt.Sprintf("replica%d", i), Name: "test", Advertise: addresses[i], Keys: keys,
			Book: cluster.Hosts{Addrs: addresses}, Dial: network.dialler(i),
		})
		node.Start(network.listen(i))
		t.Cleanup(node.Close)
	}
	for _, r := range rigs {
		r.await("the other replicas", func() bool { return r.replicasUp() == n-1 })
	}
	return rigs, network
}

// replicasUp returns how many other replicas are connected.
func (r *rig) replicasUp() (n int) {
	for _, p := range r.proxy.replicas.node.Peers() {
		if p.State == "up" {
			n++
		}
	}
	return n
}

// handshake opens a polling connection and returns its sid.
func (r *rig) handshake() string {
	r.t.Helper()
	answer := r.answer(r.send("GET /socket.io/?EIO=4&transport=polling", ""))
	_, rest, _ := strings.Cut(answer, `"sid":"`)
	sid, _, ok := strings.Cut(rest, `"`)
	if !ok {
		r.t.Fatalf("the handshake is answered with %q", answer)
	}
	return sid
}

// send sends a request over a connection of its own. request is the method and the target.
func (r *rig) send(request, body string) *net.TCPConn {
	r.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		r.t.Fatal(err)
	}
	head := request + " HTTP/1.1\r\nHost: app\r\nConnection: close\r\n"
	if strings.HasPrefix(request, http.MethodPost) {
		head += fmt.Sprintf("Content-Type: text/plain\r\nContent-Length: %d\r\n", len(body))
	} else {
		body = ""
	}
	if _, err := io.WriteString(conn, head+"\r\n"+body); err != nil {
		r.t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// answer reads everything that comes.
func (r *rig) answer(conn net.Conn) string {
	r.t.Helper()
	b, err := io.ReadAll(conn)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

// wantNoSuccess closes the sending side, and checks that no success is reported. On a busy machine
// a refusal may come before the end is noticed.
func wantNoSuccess(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(conn); strings.HasPrefix(string(b), "HTTP/1.1 2") || err != nil {
		t.Errorf("got %q, %v, want the connection's end", b, err)
	}
}
