package proxy

import (
	"crypto/sha256"
	bigendian "encoding/binary"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/holdfast/holdfast/internal/cluster"
)

// With several replicas, a client with a key may reach one that does not have its sessions. So each
// replica tells the others which keys it has: all of them when a connection to another replica
// begins, and then each change. A keyDirectory is what the others have told. It is never believed
// blindly: the replica that it names is asked, and may refuse. See
// docs/adr/0015-keys-over-replicas.md.
//
// Each claim of a key has a number. It is about the time of the claim, and always above that of
// every claim of this key that the replica knows of. If two replicas have claimed one key, because
// neither knew of the other, the claim with the higher number holds, and the other one yields.

// keyDigest stands for a key between replicas: a digest of it that is the same for all of them.
type keyDigest [sha256.Size]byte

// keyClaim says that a replica has a key.
type keyClaim struct {
	key    keyDigest
	number uint64 // 0 if it has the key no more
}

// clusterSalt is the keyring's salt in a cluster with this name.
func clusterSalt(name string) []byte { return []byte("holdfast keyed recovery 1 " + name + "\n") }

const (
	// notedClaimBytes is the length of one keyClaim in a note.
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

// keyNote is a note about keys.
type keyNote struct {
	table  byte // tableBegins, tableEnds
	claims []keyClaim
}

func (n *keyNote) encode() []byte {
	b := make([]byte, 0, 1+len(n.claims)*notedClaimBytes)
	b = append(b, n.table)
	for _, c := range n.claims {
		b = bigendian.BigEndian.AppendUint64(append(b, c.key[:]...), c.number)
	}
	return b
}

var errKeyNote = errors.New("proxy: malformed note about keys")

func parseKeyNote(b []byte) (n keyNote, err error) {
	if len(b) == 0 || (len(b)-1)%notedClaimBytes != 0 {
		return n, errKeyNote
	}
	n.table = b[0]
	for item := range slices.Chunk(b[1:], notedClaimBytes) {
		n.claims = append(n.claims, keyClaim{keyDigest(item), bigendian.BigEndian.Uint64(item[sha256.Size:])})
	}
	return n, nil
}

// keyDirectory knows which keys other replicas have, and tells them which ones this one has. It is
// safe for concurrent use. A nil keyDirectory knows none.
type keyDirectory struct {
	self  string // the id of this replica; immutable, like the next ones
	clock func() int64
	all   func() []keyClaim
	send  func(note []byte, to []string) // to replicas that are connected; nil stands for all of them

	mu      sync.Mutex // guards the fields below; a leaf
	peers   map[string]*peerKeys
	pending []keyClaim // to tell all others
	tables  []string   // replicas to tell everything
	sending bool
}

// peerKeys are the keys that another replica has.
type peerKeys struct {
	claims map[keyDigest]uint64
	conn   uint64 // the connection over which it has told them; see cluster.Sender
	whole  bool   // it has told all of them
}

// newKeyDirectory returns an empty directory. clock is about the time, all returns the claims of
// this replica, and send sends a note.
func newKeyDirectory(self string, clock func() int64, all func() []keyClaim, send func(note []byte, to []string)) *keyDirectory {
	return &keyDirectory{self: self, clock: clock, all: all, send: send, peers: make(map[string]*peerKeys)}
}

// holder returns the other replica that has a key, or "".
func (d *keyDirectory) holder(key string) string {
	if d == nil || len(key) != sha256.Size {
		return ""
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	id, _ := d.holderLocked(keyDigest([]byte(key)))
	return id
}

// holderLocked returns the other replica with the highest claim of a key, and the claim's number.
func (d *keyDirectory) holderLocked(key keyDigest) (id string, number uint64) {
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

// claim says that this replica has a key from now on, and returns the number of the claim.
func (d *keyDirectory) claim(key string) (number uint64) {
	if d == nil || len(key) != sha256.Size {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c := keyClaim{key: keyDigest([]byte(key))}
	_, known := d.holderLocked(c.key)
	c.number = max(uint64(d.clock()), known+1)
	d.tellLocked(c)
	return c.number
}

// reclaim is claim for a key that another process had.
func (d *keyDirectory) reclaim(key string) (number uint64) {
	if d == nil || len(key) != sha256.Size {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tellLocked(keyClaim{keyDigest([]byte(key)), restoredClaim})
	return restoredClaim
}

// release says that this replica has a key no more.
func (d *keyDirectory) release(key string) {
	if d == nil || len(key) != sha256.Size {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tellLocked(keyClaim{key: keyDigest([]byte(key))})
}

// tellLocked tells all others soon.
func (d *keyDirectory) tellLocked(c keyClaim) {
	d.pending = append(d.pending, c)
	d.startLocked()
}

// connected says that another replica can be reached: it is told everything.
func (d *keyDirectory) connected(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Contains(d.tables, id) {
		d.tables = append(d.tables, id)
	}
	d.startLocked()
}

func (d *keyDirectory) startLocked() {
	if !d.sending {
		d.sending = true
		go d.sendPending() // ends when there is nothing more to tell
	}
}

// sendPending sends what others have not been told. What is added meanwhile goes into one more
// note.
func (d *keyDirectory) sendPending() {
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
			d.send((&keyNote{claims: part}).encode(), nil)
		}
		if len(tables) > 0 {
			// What changes from here on is told again, behind the table.
			d.sendTable(d.all(), tables)
		}
	}
}

func (d *keyDirectory) sendTable(all []keyClaim, to []string) {
	parts := slices.Collect(slices.Chunk(all, claimsPerNote))
	if len(parts) == 0 {
		parts = [][]keyClaim{nil}
	}
	for i, part := range parts {
		n := keyNote{claims: part}
		if i == 0 {
			n.table |= tableBegins
		}
		if i == len(parts)-1 {
			n.table |= tableEnds
		}
		d.send(n.encode(), to)
	}
}

// noted takes a note of another replica, and returns its claims. ok is false for a note that cannot
// be read. What comes ahead of a table is in the table, and what comes over an earlier connection
// is outdated.
func (d *keyDirectory) noted(from cluster.Sender, about []byte) (claims []keyClaim, ok bool) {
	n, err := parseKeyNote(about)
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
		k = &peerKeys{claims: make(map[keyDigest]uint64), conn: from.Conn}
		d.peers[from.ID] = k
	case k == nil || from.Conn > k.conn: // a table follows
		return nil, true
	}
	k.whole = k.whole || n.table&tableEnds != 0
	for _, c := range n.claims {
		if c.number > 0 {
			k.claims[c.key] = c.number
		} else {
			delete(k.claims, c.key)
		}
	}
	return n.claims, true
}

// whole reports whether a replica has told all of its keys.
func (d *keyDirectory) whole(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := d.peers[id]
	return k != nil && k.whole
}

// forget forgets a replica that does not exist any more.
func (d *keyDirectory) forget(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.peers, id)
}

// count returns how many keys other replicas have.
func (d *keyDirectory) count() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k := range maps.Values(d.peers) {
		n += len(k.claims)
	}
	return n
}
