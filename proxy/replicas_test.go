package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/siotest/sioclient"
)

// newReplicaRigs returns rigs that are replicas of each other. Each has its own server.
func newReplicaRigs(t *testing.T, n int, change func(*config.Config)) []*rig {
	t.Helper()
	ks, err := cluster.NewKeys([]string{"a secret of the tests, which has enough bytes"})
	if err != nil {
		t.Fatal(err)
	}
	var listeners []net.Listener
	var addrs []string
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners, addrs = append(listeners, ln), append(addrs, ln.Addr().String())
	}
	rigs := make([]*rig, n)
	for i := range rigs {
		rigs[i] = newRig(t, change)
		node := rigs[i].proxy.JoinCluster(cluster.Options{
			ID: fmt.Sprintf("replica%d", i), Name: "test", Advertise: addrs[i], Keys: ks, Book: cluster.Hosts{Addrs: addrs},
		})
		node.Start(listeners[i])
		t.Cleanup(node.Close)
	}
	for _, r := range rigs {
		r.await("the other replicas", func() bool { return r.replicasUp() == n-1 })
	}
	return rigs
}

// poller is a polling client, request by request.
type poller struct {
	t   *testing.T
	sid string
}

func (p *poller) request(r *rig, method, query, body string) (status int, answer string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, r.url+"/socket.io/?EIO=4&transport=polling"+query, strings.NewReader(body))
	if err != nil {
		p.t.Error(err)
		return 0, ""
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Error(err)
		return 0, ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Error(err)
	}
	return resp.StatusCode, string(b)
}

// poll polls at a replica.
func (p *poller) poll(r *rig) (status int, answer string) {
	p.t.Helper()
	return p.request(r, http.MethodGet, "&sid="+p.sid, "")
}

// open makes the handshake.
func (p *poller) open(r *rig, query string) {
	p.t.Helper()
	status, answer := p.request(r, http.MethodGet, query, "")
	_, rest, ok := strings.Cut(answer, `"sid":"`)
	if status != http.StatusOK || !ok {
		p.t.Fatal("handshake:", status, answer)
	}
	p.sid, _, _ = strings.Cut(rest, `"`)
}

// The poll of a client that was moved is refused once when its owner leaves, wherever it arrives:
// the two replicas do not pass it to each other.
func TestPollOfAMovedClientWhoseOwnerLeaves(t *testing.T) {
	rigs := newReplicaRigs(t, 2, nil)
	owner, edge := rigs[0], rigs[1]
	first := sioclient.New(sioclient.Options{URL: owner.url})
	if err := first.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	owner.socket(0).Emit("n", 1)
	owner.await("an offset", func() bool { return first.Offset() != "" })
	first.Cut()
	p := &poller{t: t}
	p.open(edge, "")
	if status, answer := p.request(edge, http.MethodPost, "&sid="+p.sid, fmt.Sprintf(`40{"pid":%q,"offset":%q}`, first.PID(), first.Offset())); status != http.StatusOK {
		t.Fatal(status, answer)
	}
	if _, answer := p.poll(edge); !strings.Contains(answer, first.PID()) {
		if _, answer = p.poll(edge); !strings.Contains(answer, first.PID()) { // the first answer was a NOOP
			t.Fatal(answer)
		}
	}
	forwarded := func() float64 {
		return testutil.ToFloat64(edge.metrics.ForwardedRequests) + testutil.ToFloat64(owner.metrics.ForwardedRequests)
	}
	before, refused := forwarded(), make(chan int)
	go func() {
		status, _ := p.poll(edge)
		refused <- status
	}()
	edge.await("the poll to be forwarded", func() bool { return forwarded() > before })
	owner.proxy.Leave(time.Second, time.Second)
	if status := <-refused; status != http.StatusBadRequest {
		t.Errorf("the poll was answered with %d", status)
	}
	if n := forwarded() - before; n > 1 {
		t.Errorf("the poll was forwarded %v times", n)
	}
	owner.proxy.Stay()
}

// A client with a key gets no fresh session while the replica with its session hands over, however
// long that takes: it is closed, and asks again.
func TestKeyedClientWhoseReplicaHandsOver(t *testing.T) {
	const query = "hf_key=0123456789abcdef"
	rigs := newReplicaRigs(t, 2, withKey)
	owner, edge := rigs[0], rigs[1]
	first := connectedKeyed(owner, query)
	owner.park(first)
	key := edge.proxy.keyring.Digest("0123456789abcdef")
	edge.await("the key", func() bool { return edge.proxy.replicas.keys.Holder(key) != "" })
	edge.proxy.replicas.pauses.begins("replica0", time.Now().Add(-2*askTimeout)) // it has not answered for long
	owner.proxy.Leave(time.Millisecond, time.Minute)
	p := dialKeyed(t, edge.url, query, -1)
	p.read(func() bool { return p.id != "" })
	if p.id != "" {
		t.Errorf("the client has %s, and had %s", p.id, first.id)
	}
	owner.proxy.Stay()
	edge.proxy.replicas.pauses.over("replica0")
	for p.id == "" { // it is closed until the edge knows
		p = dialKeyed(t, edge.url, query, -1)
		p.read(func() bool { return p.id != "" })
	}
	if p.id != first.id {
		t.Errorf("the client has %s in the end, and had %s", p.id, first.id)
	}
}
