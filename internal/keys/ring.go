package keys

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"maps"
	"slices"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/session"
)

// rememberedKeys is for how many sessions that have ended the keyring remembers why.
const rememberedKeys = 8192

// Ring knows the keys of clients that are connected, or have sessions. It keeps digests: a key
// is as good as a password. It is safe for concurrent use. The zero value is empty.
type Ring struct {
	directory *Directory // what other replicas have; nil without any; set before the first key

	mu           sync.Mutex // guards the fields below; taken with a client's mu held
	salt         []byte     // random for each process, or the cluster's; nil until there is a key
	previousSalt []byte     // of the process whose sessions this one has taken over, if it was another one
	groups       map[string]*group
	ends         *lru.Cache[keyedNamespace, reason.Reason] // nil until a session with a key ends
}

// group is what belongs to one key.
type group struct {
	owner    session.Owner // the client that has the key, or nil
	claimed  uint64        // number of the replica's claim of the key; 0 without other replicas
	binding  string        // bindingDigest of the first owner
	sessions map[string]*session.Session
}

type keyedNamespace struct{ key, namespace string }

// Digest returns what stands for a key in memory.
func (r *Ring) Digest(key string) string {
	r.mu.Lock()
	if r.salt == nil {
		r.salt = make([]byte, 16)
		if _, err := rand.Read(r.salt); err != nil {
			panic(err) // crypto/rand never fails on the platforms we run on
		}
	}
	salt, previous := r.salt, r.previousSalt // never changed once there is a key
	r.mu.Unlock()
	if previous != nil {
		if digest := saltedDigest(previous, key); r.Has(digest) {
			return digest
		}
	}
	return saltedDigest(salt, key)
}

func saltedDigest(salt []byte, key string) string {
	sum := sha256.Sum256(append(slices.Clip(salt), key...))
	return string(sum[:])
}

// Join makes digests the same for all replicas of a cluster.
func (r *Ring) Join(directory *Directory, salt []byte) {
	r.directory = directory
	r.mu.Lock()
	defer r.mu.Unlock()
	r.salt = salt
}

// Export returns the salt for a process that takes the sessions over.
func (r *Ring) Export() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.salt
}

// Restore sets the salt, before any key is known.
func (r *Ring) Restore(salt []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.directory == nil:
		r.salt = slices.Clone(salt)
	case salt != nil && !bytes.Equal(salt, r.salt):
		r.previousSalt = slices.Clone(salt)
	}
}

// Claim makes c the owner of the key k, unless another client is. It returns that client. ok is
// false if the sessions of the key are bound to something that c does not present.
func (r *Ring) Claim(k session.Key, c session.Owner, namespace string, binding session.Binding) (owner session.Owner, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.groups[k.Digest]
	if g == nil {
		g = r.newGroupLocked(k, r.directory.claim)
	}
	if s := g.sessions[namespace]; g.binding != k.Handshake || s != nil && !s.Accepts(binding) {
		return nil, false
	}
	if g.owner != nil && g.owner != c {
		return g.owner, true
	}
	g.owner = c
	return nil, true
}

// newGroupLocked adds a key. claim tells other replicas.
func (r *Ring) newGroupLocked(k session.Key, claim func(key string) uint64) *group {
	if r.groups == nil {
		r.groups = make(map[string]*group)
	}
	g := &group{binding: k.Handshake, sessions: make(map[string]*session.Session), claimed: claim(k.Digest)}
	r.groups[k.Digest] = g
	return g
}

// Release says that a client with this key is gone, and has parked its sessions.
func (r *Ring) Release(key string, c session.Owner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.groups[key]; g != nil && g.owner == c {
		g.owner = nil
		r.dropIfEmptyLocked(key, g)
	}
}

// dropIfEmptyLocked forgets a key that nothing belongs to.
func (r *Ring) dropIfEmptyLocked(key string, g *group) {
	if g.owner == nil && len(g.sessions) == 0 {
		delete(r.groups, key)
		r.directory.release(key)
	}
}

// Has reports whether this replica has a key.
func (r *Ring) Has(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.groups[key] != nil
}

// Add adds a session that the owner of its key has opened.
func (r *Ring) Add(s *session.Session) { r.addAs(s, r.directory.claim) }

// AddRestored adds a session that another process had.
func (r *Ring) AddRestored(s *session.Session) { r.addAs(s, r.directory.reclaim) }

func (r *Ring) addAs(s *session.Session, claim func(key string) uint64) {
	k := s.Key()
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.groups[k.Digest]
	if g == nil {
		g = r.newGroupLocked(k, claim)
	}
	g.sessions[s.Namespace()] = s
}

// Closed says that a session has ended.
func (r *Ring) Closed(s *session.Session, why reason.Reason) {
	if !s.Keyed() {
		return
	}
	key := s.Key().Digest
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.groups[key]; g != nil && g.sessions[s.Namespace()] == s {
		delete(g.sessions, s.Namespace())
		r.dropIfEmptyLocked(key, g)
	}
	if r.ends == nil {
		ends, err := lru.New[keyedNamespace, reason.Reason](rememberedKeys)
		if err != nil {
			panic(err) // only for a size below 1
		}
		r.ends = ends
	}
	r.ends.Add(keyedNamespace{key, s.Namespace()}, why)
}

// TakeLastHolder returns the other replica that had a key last, or "", once. It knows why the key's
// sessions ended.
func (r *Ring) TakeLastHolder(key string) (replica string) { return r.directory.takeLastHolder(key) }

// Find returns the pid of a key's session in a namespace. If there is none any more, it returns
// why, once.
func (r *Ring) Find(key, namespace string) (pid string, why reason.Reason) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.groups[key]; g != nil && g.sessions[namespace] != nil {
		return g.sessions[namespace].PID(), ""
	}
	if r.ends == nil {
		return "", ""
	}
	ended := keyedNamespace{key, namespace}
	why, _ = r.ends.Get(ended)
	r.ends.Remove(ended)
	return "", why
}

// Owner returns the client that has a key, or nil.
func (r *Ring) Owner(key string) session.Owner {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.groups[key]; g != nil {
		return g.owner
	}
	return nil
}

// Accepts reports whether the sessions of a key are bound to what a handshake presents, of which
// presented is the digest.
func (r *Ring) Accepts(key, presented string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.groups[key]
	return g != nil && g.binding == presented
}

// SessionsFor returns the sessions of a key, if they are bound to what a handshake presents, of
// which presented is the digest.
func (r *Ring) SessionsFor(key, presented string) []*session.Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.groups[key]
	if g == nil || g.binding != presented {
		return nil
	}
	return slices.Collect(maps.Values(g.sessions))
}

// AnySession returns one of the sessions of a key, or nil.
func (r *Ring) AnySession(key string) *session.Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.groups[key]; g != nil {
		for _, s := range g.sessions {
			return s
		}
	}
	return nil
}

// Beaten returns those of the claims of this replica that do not hold against claims of another
// one.
func (r *Ring) Beaten(from, self string, claims []Claim) (lost []Claim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.groups) == 0 {
		return nil
	}
	for _, c := range claims {
		if g := r.groups[string(c.key[:])]; g != nil && c.number > 0 && outranks(c.number, from, g.claimed, self) {
			lost = append(lost, Claim{c.key, g.claimed})
		}
	}
	return lost
}

// Claims returns all keys that belong to this replica.
func (r *Ring) Claims() []Claim {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Claim, 0, len(r.groups))
	for key, g := range r.groups {
		if g.claimed > 0 {
			all = append(all, Claim{Digest([]byte(key)), g.claimed})
		}
	}
	return all
}

// TakeAway removes a key from this replica whose claim does not hold, and returns its sessions,
// which are parked. If a client has the key, it returns that client instead: once it is closed, it
// opens no session any more. A later claim of the key stays: it was made by a client that came when
// no other replica had the key.
func (r *Ring) TakeAway(lost Claim) (sessions []*session.Session, owner session.Owner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := string(lost.key[:])
	g := r.groups[key]
	switch {
	case g == nil, g.claimed != lost.number:
		return nil, nil
	case g.owner != nil:
		return nil, g.owner
	}
	delete(r.groups, key)
	r.directory.release(key)
	return slices.Collect(maps.Values(g.sessions)), nil
}
