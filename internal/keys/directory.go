package keys

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/holdfast/holdfast/internal/cluster"
)

// With several replicas, a client with a key may reach one that does not have its sessions. So each
// replica tells the others which keys it has: all of them when a connection to another replica
// begins, and then each change. A Directory is what the others have told. It is never believed
// blindly: the replica that it names is asked, and may refuse. See
// docs/adr/0015-keys-over-replicas.md.
//
// Each claim of a key has a number. It is about the time of the claim, and always above that of
// every claim of this key that the replica knows of. If two replicas have claimed one key, because
// neither knew of the other, the claim with the higher number holds, and the other one yields.

// Digest stands for a key between replicas: a digest of it that is the same for all of them.
type Digest [sha256.Size]byte

// Claim says that a replica has a key.
type Claim struct {
	key    Digest
	number uint64 // 0 if it no longer has the key
}

// ClusterSalt is the keyring's salt in a cluster with this name.
func ClusterSalt(name string) []byte { return []byte("holdfast keyed recovery 1 " + name + "\n") }

const (
	// notedClaimBytes is the length of one Claim in a note.
	notedClaimBytes = sha256.Size + 8
	// claimsPerNote bounds a note.
	claimsPerNote = 1000
	// restoredClaim is the number of a claim that another process had: every other claim was made
	// later.
	restoredClaim = 1
)

// Parts of a table of all keys, in a note.
const (
	tableBegins byte = 1 << iota
	tableEnds
)

// note is a note about keys.
type note struct {
	table  byte // tableBegins, tableEnds
	claims []Claim
}

func (n *note) encode() []byte {
	b := make([]byte, 0, 1+len(n.claims)*notedClaimBytes)
	b = append(b, n.table)
	for _, c := range n.claims {
		b = binary.BigEndian.AppendUint64(append(b, c.key[:]...), c.number)
	}
	return b
}

var errNote = errors.New("keys: malformed note about keys")

func parseNote(b []byte) (n note, err error) {
	if len(b) == 0 || (len(b)-1)%notedClaimBytes != 0 {
		return n, errNote
	}
	n.table = b[0]
	for item := range slices.Chunk(b[1:], notedClaimBytes) {
		n.claims = append(n.claims, Claim{Digest(item), binary.BigEndian.Uint64(item[sha256.Size:])})
	}
	return n, nil
}

// Directory knows which keys other replicas have, and tells them which ones this one has. It is
// safe for concurrent use. A nil Directory knows none.
type Directory struct {
	self  string // the id of this replica; immutable, like the next ones
	clock func() int64
	all   func() []Claim
	send  func(note []byte, to []string) // to replicas that are connected; nil stands for all of them

	mu          sync.Mutex // guards the fields below; a leaf
	peers       map[string]*peerKeys
	lastHolders *lru.Cache[Digest, string] // which replica held a key last, if it no longer does; nil if there is none
	pending     []Claim                    // to tell all others
	tables      []string                   // replicas to tell everything
	sending     bool
}

// peerKeys are the keys that another replica has.
type peerKeys struct {
	claims map[Digest]uint64
	conn   uint64 // the connection over which it has told them; see cluster.Sender
	whole  bool   // it has told all of them
}

// NewDirectory returns an empty directory. clock is about the time, all returns the claims of
// this replica, and send sends a note.
func NewDirectory(self string, clock func() int64, all func() []Claim, send func(note []byte, to []string)) *Directory {
	return &Directory{self: self, clock: clock, all: all, send: send, peers: make(map[string]*peerKeys)}
}

// Holder returns the other replica that has a key, or "".
func (d *Directory) Holder(key string) string {
	if d == nil || len(key) != sha256.Size {
		return ""
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	id, _ := d.holderLocked(Digest([]byte(key)))
	return id
}

// holderLocked returns the other replica with the highest claim of a key, and the claim's number.
func (d *Directory) holderLocked(key Digest) (id string, number uint64) {
	for peer, k := range d.peers {
		if n := k.claims[key]; n > 0 && outranks(n, peer, number, id) {
			id, number = peer, n
		}
	}
	return id, number
}

// outranks reports whether a claim holds against another one. Replicas that claim a key at the same
// time are ordered by their ids.
func outranks(number uint64, id string, other uint64, otherID string) bool {
	return number > other || number == other && id > otherID
}

// Claim says that this replica has a key from now on, and returns the number of the claim.
func (d *Directory) claim(key string) (number uint64) {
	if d == nil || len(key) != sha256.Size {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c := Claim{key: Digest([]byte(key))}
	_, known := d.holderLocked(c.key)
	c.number = max(uint64(d.clock()), known+1)
	d.tellLocked(c)
	return c.number
}

// reclaim is claim for a key that another process had.
func (d *Directory) reclaim(key string) (number uint64) {
	if d == nil || len(key) != sha256.Size {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tellLocked(Claim{Digest([]byte(key)), restoredClaim})
	return restoredClaim
}

// Release says that this replica no longer has a key.
func (d *Directory) release(key string) {
	if d == nil || len(key) != sha256.Size {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tellLocked(Claim{key: Digest([]byte(key))})
}

// tellLocked tells all others soon.
func (d *Directory) tellLocked(c Claim) {
	d.pending = append(d.pending, c)
	d.startLocked()
}

// Connected says that another replica can be reached: it is told everything.
func (d *Directory) Connected(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Contains(d.tables, id) {
		d.tables = append(d.tables, id)
	}
	d.startLocked()
}

func (d *Directory) startLocked() {
	if !d.sending {
		d.sending = true
		go d.sendPending() // ends when there is nothing more to tell
	}
}

// sendPending sends what others have not been told. What is added meanwhile goes into one more
// note.
func (d *Directory) sendPending() {
	for {
		d.mu.Lock()
		pending, tables := d.pending, d.tables
		d.pending, d.tables = nil, nil
		if len(pending) == 0 && len(tables) == 0 {
			d.sending = false
			d.mu.Unlock()
			return
		}
		d.mu.Unlock()
		for part := range slices.Chunk(pending, claimsPerNote) {
			d.send((&note{claims: part}).encode(), nil)
		}
		if len(tables) > 0 {
			// What changes from here on is told again, behind the table.
			d.sendTable(d.all(), tables)
		}
	}
}

func (d *Directory) sendTable(all []Claim, to []string) {
	parts := slices.Collect(slices.Chunk(all, claimsPerNote))
	if len(parts) == 0 {
		parts = [][]Claim{nil}
	}
	for i, part := range parts {
		n := note{claims: part}
		if i == 0 {
			n.table |= tableBegins
		}
		if i == len(parts)-1 {
			n.table |= tableEnds
		}
		d.send(n.encode(), to)
	}
}

// Noted takes a note of another replica, and returns its claims. ok is false for a note that cannot
// be read. What comes ahead of a table is in the table, and what comes over an earlier connection
// is outdated.
func (d *Directory) Noted(from cluster.Sender, about []byte) (claims []Claim, ok bool) {
	n, err := parseNote(about)
	if err != nil || from.ID == d.self {
		return nil, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	k := d.peers[from.ID]
	switch {
	case k != nil && from.Conn < k.conn:
		return nil, true
	case n.table&tableBegins != 0:
		k = &peerKeys{claims: make(map[Digest]uint64), conn: from.Conn}
		d.peers[from.ID] = k
	case k == nil || from.Conn > k.conn: // a table follows
		return nil, true
	}
	k.whole = k.whole || n.table&tableEnds != 0
	for _, c := range n.claims {
		if c.number > 0 {
			k.claims[c.key] = c.number
		} else if k.claims[c.key] > 0 {
			delete(k.claims, c.key)
			d.remember(c.key, from.ID)
		}
	}
	return n.claims, true
}

// remember notes that a replica no longer has a key. d.mu is held.
func (d *Directory) remember(key Digest, id string) {
	if d.lastHolders == nil {
		cache, err := lru.New[Digest, string](rememberedKeys)
		if err != nil {
			panic(err) // only for a size below 1
		}
		d.lastHolders = cache
	}
	d.lastHolders.Add(key, id)
}

// takeLastHolder returns the replica that had a key last, or "", once. It knows why the key's sessions
// ended.
func (d *Directory) takeLastHolder(key string) (id string) {
	if d == nil || len(key) != sha256.Size {
		return ""
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lastHolders == nil {
		return ""
	}
	id, _ = d.lastHolders.Get(Digest([]byte(key)))
	d.lastHolders.Remove(Digest([]byte(key)))
	return id
}

// Whole reports whether a replica has told all of its keys.
func (d *Directory) Whole(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := d.peers[id]
	return k != nil && k.whole
}

// Forget forgets a replica that does not exist any more.
func (d *Directory) Forget(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.peers, id)
}

// Count returns how many keys other replicas have.
func (d *Directory) Count() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k := range maps.Values(d.peers) {
		n += len(k.claims)
	}
	return n
}
