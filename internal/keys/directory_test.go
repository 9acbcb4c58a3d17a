package keys

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/session"
)

// FuzzKeyNote parses notes about keys, as another replica could send them.
func FuzzKeyNote(f *testing.F) {
	first := note{table: tableBegins | tableEnds, claims: []Claim{{Digest{1}, 5}, {Digest{2}, 0}}}
	f.Add(first.encode())
	f.Add((&note{}).encode())
	f.Add([]byte("short"))
	f.Add(append(first.encode(), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := parseNote(b)
		if err != nil {
			return
		}
		if !bytes.Equal(n.encode(), b) {
			t.Errorf("%x became %x", b, n.encode())
		}
	})
}

// keyNet is the keys of several replicas, and a network that carries their notes in order, with a
// delay, and not across a cut.
type keyNet struct {
	t        *rapid.T
	ids      []string
	replicas map[string]*keyReplica
	mu       sync.Mutex
	cut      map[[2]string]bool
	claims   map[string]int // how often a key was claimed
	conns    uint64         // connections so far
}

// keyReplica is one of them.
type keyReplica struct {
	net   *keyNet
	id    string
	ring  Ring
	mu    sync.Mutex // guards outs
	outs  map[string]chan []byte
	ended chan struct{}
}

func newKeyNet(t *rapid.T, n int) *keyNet {
	net := &keyNet{t: t, replicas: make(map[string]*keyReplica), cut: make(map[[2]string]bool), claims: make(map[string]int)}
	for i := range n {
		net.ids = append(net.ids, fmt.Sprint("r", i))
		net.start(net.ids[i])
	}
	return net
}

// start starts a replica with the keys that another process had.
func (n *keyNet) start(id string, claims ...Claim) {
	r := &keyReplica{net: n, id: id, outs: make(map[string]chan []byte), ended: make(chan struct{})}
	skew := int64(rapid.IntRange(0, 10_000_000).Draw(n.t, "skew"))
	clock := func() int64 { return skew + time.Since(time.Unix(0, 0)).Microseconds() }
	r.ring.Join(NewDirectory(id, clock, r.ring.Claims, r.send), ClusterSalt("test"))
	n.replicas[id] = r
	for _, c := range claims {
		r.ring.mu.Lock()
		r.ring.newGroupLocked(session.Key{Digest: string(c.key[:])}, r.ring.directory.reclaim)
		r.ring.mu.Unlock()
	}
	for _, other := range n.ids {
		if other != id && n.up(id, other) {
			n.connect(id, other)
		}
	}
}

func (n *keyNet) up(a, b string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.cut[pairOf(a, b)]
}

func pairOf(a, b string) [2]string { return [2]string{min(a, b), max(a, b)} }

// connect connects two replicas in both directions.
func (n *keyNet) connect(a, b string) {
	for _, pair := range [][2]string{{a, b}, {b, a}} {
		from, to := n.replicas[pair[0]], n.replicas[pair[1]]
		if from == nil || to == nil {
			continue
		}
		out := make(chan []byte, 1<<16)
		n.conns++
		sender := cluster.Sender{ID: from.id, Conn: n.conns}
		from.mu.Lock()
		if old := from.outs[to.id]; old != nil {
			close(old)
		}
		from.outs[to.id] = out
		from.mu.Unlock()
		delay := time.Duration(rapid.IntRange(0, 20).Draw(n.t, "delay")) * time.Millisecond
		go func() { // ends with the connection; what is in flight when that ends still arrives
			for note := range out {
				time.Sleep(delay)
				to.noted(sender, note)
			}
		}()
		from.ring.directory.Connected(to.id)
	}
}

// disconnect ends the connections between two replicas.
func (n *keyNet) disconnect(a, b string) {
	for _, pair := range [][2]string{{a, b}, {b, a}} {
		if from := n.replicas[pair[0]]; from != nil {
			from.mu.Lock()
			if out := from.outs[pair[1]]; out != nil {
				close(out)
				delete(from.outs, pair[1])
			}
			from.mu.Unlock()
		}
	}
}

func (r *keyReplica) send(note []byte, to []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, out := range r.outs {
		if len(to) == 0 || slices.Contains(to, id) {
			out <- note
		}
	}
}

func (r *keyReplica) noted(from cluster.Sender, note []byte) {
	select {
	case <-r.ended:
		return
	default:
	}
	claims, ok := r.ring.directory.Noted(from, note)
	if !ok {
		r.net.t.Errorf("a note cannot be read: %x", note)
	}
	for _, lost := range r.ring.Beaten(from.ID, r.id, claims) {
		go r.ring.TakeAway(lost)
	}
}

// end ends the sessions of a key.
func (r *keyReplica) end(key string) {
	for _, c := range r.ring.Claims() {
		if string(c.key[:]) == key {
			r.ring.TakeAway(c)
		}
	}
}

// arrive lets a client with a key reach a replica. It gets its session elsewhere, or a fresh one
// here.
func (n *keyNet) arrive(id, key string) {
	r := n.replicas[id]
	if r.ring.Has(key) {
		return
	}
	holder := r.ring.directory.Holder(key)
	if other := n.replicas[holder]; holder != "" && other != nil && n.up(id, holder) && other.ring.Has(key) {
		return // moved there
	}
	r.ring.mu.Lock()
	r.ring.newGroupLocked(session.Key{Digest: key}, r.ring.directory.claim)
	r.ring.mu.Unlock()
	n.mu.Lock()
	n.claims[key]++
	n.mu.Unlock()
}

// holders returns the replicas that have a key.
func (n *keyNet) holders(key string) (ids []string) {
	for _, id := range n.ids {
		if n.replicas[id].ring.Has(key) {
			ids = append(ids, id)
		}
	}
	return ids
}

// settle heals everything, and checks that all agree.
func (n *keyNet) settle(keys []string) {
	for i, a := range n.ids {
		for _, b := range n.ids[i+1:] {
			if !n.up(a, b) {
				n.mend(a, b)
			}
		}
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	for _, key := range keys {
		holders := n.holders(key)
		if len(holders) > 1 {
			n.t.Errorf("%x is at %v", key[:4], holders)
		}
		for _, id := range n.ids {
			want := ""
			if len(holders) == 1 && holders[0] != id {
				want = holders[0]
			}
			if got := n.replicas[id].ring.directory.Holder(key); got != want {
				n.t.Errorf("%s takes %q for the holder of %x, and not %q", id, got, key[:4], want)
			}
		}
	}
}

func (n *keyNet) mend(a, b string) {
	n.mu.Lock()
	delete(n.cut, pairOf(a, b))
	n.mu.Unlock()
	n.connect(a, b)
}

// close ends the goroutines.
func (n *keyNet) close() {
	for i, a := range n.ids {
		for _, b := range n.ids[i+1:] {
			n.disconnect(a, b)
		}
	}
	time.Sleep(time.Minute)
}

// TestKeyDirectoryModel lets clients with keys come and go at several replicas, while connections
// between these break and replicas restart. Once all faults are over, each key is at one replica at
// most, and all replicas know which.
func TestKeyDirectoryModel(t *testing.T) {
	keys := make([]string, 4)
	for i := range keys {
		sum := sha256.Sum256([]byte{byte(i)})
		keys[i] = string(sum[:])
	}
	rapid.Check(t, func(t *rapid.T) {
		rapid.SyncTest(t, func(t *rapid.T) {
			n := newKeyNet(t, rapid.IntRange(2, 4).Draw(t, "replicas"))
			defer n.close()
			replica := func(t *rapid.T) string { return rapid.SampledFrom(n.ids).Draw(t, "replica") }
			key := func(t *rapid.T) string { return rapid.SampledFrom(keys).Draw(t, "key") }
			two := func(t *rapid.T) (a, b string) {
				pair := rapid.Permutation(n.ids).Draw(t, "pair")
				return pair[0], pair[1]
			}
			t.Repeat(map[string]func(*rapid.T){
				"arrive": func(t *rapid.T) { n.arrive(replica(t), key(t)) },
				"race": func(t *rapid.T) {
					a, b := two(t)
					k := key(t)
					n.arrive(a, k)
					n.arrive(b, k)
				},
				"end": func(t *rapid.T) { n.replicas[replica(t)].end(key(t)) },
				"wait": func(t *rapid.T) {
					time.Sleep(time.Duration(rapid.IntRange(0, 100).Draw(t, "ms")) * time.Millisecond)
				},
				"cut": func(t *rapid.T) {
					a, b := two(t)
					n.mu.Lock()
					n.cut[pairOf(a, b)] = true
					n.mu.Unlock()
					n.disconnect(a, b)
				},
				"mend": func(t *rapid.T) {
					if a, b := two(t); !n.up(a, b) {
						n.mend(a, b)
					}
				},
				"hand over": func(t *rapid.T) { n.handOver(replica(t)) },
				"settle":    func(*rapid.T) { n.settle(keys) },
			})
			n.settle(keys)
		})
	})
}

// handOver replaces a replica by another process, which has its id and its keys.
func (n *keyNet) handOver(id string) {
	old := n.replicas[id]
	claims := old.ring.Claims()
	for _, other := range n.ids {
		if other != id {
			n.disconnect(id, other)
		}
	}
	time.Sleep(50 * time.Millisecond) // the next process starts
	close(old.ended)
	n.start(id, claims...)
}

// TestKeyDirectorySettled moves clients between replicas that reach each other, one after the
// other: then a key is never claimed twice.
func TestKeyDirectorySettled(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rapid.SyncTest(t, func(t *rapid.T) {
			n := newKeyNet(t, 3)
			defer n.close()
			sum := sha256.Sum256([]byte("key"))
			key := string(sum[:])
			for range 20 {
				time.Sleep(time.Second)
				switch rapid.IntRange(0, 5).Draw(t, "what") {
				case 0:
					n.handOver(rapid.SampledFrom(n.ids).Draw(t, "replica"))
				default:
					n.arrive(rapid.SampledFrom(n.ids).Draw(t, "replica"), key)
				}
			}
			if n.claims[key] > 1 {
				t.Errorf("claimed %d times", n.claims[key])
			}
		})
	})
}

func TestKeyDirectoryKnowsTheLatestClaim(t *testing.T) {
	sent := make(chan []byte, 10)
	key := Digest{1}
	d := NewDirectory("b", func() int64 { return 100 }, func() []Claim { return nil }, func(note []byte, _ []string) { sent <- note })
	tell := func(from string, conn uint64, table byte, claims ...Claim) {
		t.Helper()
		n := note{table, claims}
		if _, ok := d.Noted(cluster.Sender{ID: from, Conn: conn}, n.encode()); !ok {
			t.Fatal("refused")
		}
	}
	want := func(holder string) {
		t.Helper()
		if got := d.Holder(string(key[:])); got != holder {
			t.Errorf("the holder is %q, not %q", got, holder)
		}
	}
	want("")
	tell("a", 1, 0, Claim{key, 50}) // its table follows, and has that
	want("")
	tell("a", 1, tableBegins, Claim{key, 50})
	if d.Whole("a") {
		t.Error("a has not told all yet")
	}
	want("a")
	tell("c", 2, tableBegins|tableEnds, Claim{key, 50}) // at the same time: the greater id
	want("c")
	tell("a", 1, 0, Claim{key, 500})
	want("a")
	if n := d.claim(string(key[:])); n != 501 {
		t.Errorf("claim %d is not above the one that is known", n)
	}
	tell("a", 3, 0, Claim{key, 0}) // over another connection, whose table follows
	want("a")
	tell("a", 3, tableBegins)
	want("c")
	tell("a", 1, tableBegins|tableEnds, Claim{key, 800}) // over the earlier connection
	want("c")
	tell("a", 3, tableEnds)
	if !d.Whole("a") || d.Count() != 1 {
		t.Error("a has told all:", d.Count())
	}
	d.Forget("c")
	want("")
	<-sent
	if _, ok := d.Noted(cluster.Sender{ID: "a", Conn: 3}, []byte("garbage")); ok {
		t.Error("garbage was taken")
	}
}

// A replica remembers for a while which one had a key last: that one knows why the key's sessions
// ended.
func TestKeyDirectoryKnowsWhoHadAKey(t *testing.T) {
	d := NewDirectory("b", func() int64 { return 100 }, func() []Claim { return nil }, func([]byte, []string) {})
	tell := func(table byte, claims ...Claim) {
		n := note{table, claims}
		d.Noted(cluster.Sender{ID: "a", Conn: 1}, n.encode())
	}
	key, other := Digest{1}, Digest{2}
	tell(tableBegins|tableEnds, Claim{key, 50})
	want := func(key Digest, holder string) {
		t.Helper()
		if got := d.takeLastHolder(string(key[:])); got != holder {
			t.Errorf("%x was last at %q, not %q", key[:1], got, holder)
		}
	}
	want(key, "") // it still is
	tell(0, Claim{key, 0}, Claim{other, 0})
	want(other, "") // it had none
	want(key, "a")
	want(key, "") // once
	for i := range rememberedKeys + 1 {
		k := Digest{3, byte(i), byte(i >> 8)}
		tell(0, Claim{k, 50}, Claim{k, 0})
	}
	want(Digest{3}, "")
	want(Digest{3, 1}, "a")
	var none *Directory
	if none.takeLastHolder(string(key[:])) != "" {
		t.Error("a nil Directory named a last holder")
	}
}

// BenchmarkKeyTable measures the memory for another replica's keys.
func BenchmarkKeyTable(b *testing.B) {
	const keys = 100_000
	for b.Loop() {
		var before, after runtime.MemStats
		d := NewDirectory("b", func() int64 { return 1 }, nil, nil)
		runtime.GC()
		runtime.ReadMemStats(&before)
		for part := range 100 {
			var n note
			if part == 0 {
				n.table = tableBegins
			}
			for i := range keys / 100 {
				n.claims = append(n.claims, Claim{sha256.Sum256([]byte(fmt.Sprint(part, i))), 1})
			}
			d.Noted(cluster.Sender{ID: "a"}, n.encode())
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(d.Count()), "B/key")
	}
}
