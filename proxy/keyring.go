package proxy

import (
	"crypto/rand"
	"crypto/sha256"
	"slices"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/session"
)

// rememberedKeys is for how many sessions that have ended the keyring remembers why.
const rememberedKeys = 8192

// keyring knows the keys of clients that are connected, or have sessions. It keeps digests: a key is
// as good as a password. It is safe for concurrent use. The zero value is empty.
type keyring struct {
	mu     sync.Mutex // guards the fields below; taken with a client's mu held
	salt   []byte     // random for each process; nil until there is a key
	groups map[string]*keyGroup
	ends   *lru.Cache[keyedNamespace, reason.Reason] // nil until a session with a key ends
}

// keyGroup is what belongs to one key.
type keyGroup struct {
	owner    *client // the client that has the key, or nil
	binding  string  // bindingDigest of the first owner
	sessions map[string]*session.Session
}

type keyedNamespace struct{ key, namespace string }

// digest returns what stands for a key in memory.
func (r *keyring) digest(key string) string {
	r.mu.Lock()
	if r.salt == nil {
		r.salt = make([]byte, 16)
		if _, err := rand.Read(r.salt); err != nil {
			panic(err) // crypto/rand never fails on the platforms we run on
		}
	}
	salt := r.salt // never changed
	r.mu.Unlock()
	sum := sha256.Sum256(append(slices.Clip(salt), key...))
	return string(sum[:])
}

// export returns the salt for a process that takes the sessions over.
func (r *keyring) export() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.salt
}

// restore sets the salt, before any key is known.
func (r *keyring) restore(salt []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.salt = slices.Clone(salt)
}

// claim makes c the owner of its key, unless another client is. It returns that client. ok is false
// if the sessions of the key are bound to something that c does not present.
func (r *keyring) claim(c *client, namespace string, binding session.Binding) (owner *client, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.groups[c.keyed.key]
	if g == nil {
		g = r.newGroupLocked(session.Key{Digest: c.keyed.key, Handshake: c.bindingDigest()})
	}
	if s := g.sessions[namespace]; g.binding != c.bindingDigest() || s != nil && !s.Accepts(binding) {
		return nil, false
	}
	if g.owner != nil && g.owner != c {
		return g.owner, true
	}
	g.owner = c
	return nil, true
}

func (r *keyring) newGroupLocked(k session.Key) *keyGroup {
	if r.groups == nil {
		r.groups = make(map[string]*keyGroup)
	}
	g := &keyGroup{binding: k.Handshake, sessions: make(map[string]*session.Session)}
	r.groups[k.Digest] = g
	return g
}

// release says that a client is gone, and has parked its sessions.
func (r *keyring) release(c *client) {
	if c.keyed == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.groups[c.keyed.key]; g != nil && g.owner == c {
		g.owner = nil
		r.tidyLocked(c.keyed.key, g)
	}
}

// tidyLocked forgets a key that nothing belongs to.
func (r *keyring) tidyLocked(key string, g *keyGroup) {
	if g.owner == nil && len(g.sessions) == 0 {
		delete(r.groups, key)
	}
}

// add adds a session that the owner of its key has opened, or that another process had.
func (r *keyring) add(s *session.Session) {
	k := s.Key()
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.groups[k.Digest]
	if g == nil {
		g = r.newGroupLocked(k)
	}
	g.sessions[s.Namespace()] = s
}

// closed says that a session has ended.
func (r *keyring) closed(s *session.Session, why reason.Reason) {
	if !s.Keyed() {
		return
	}
	key := s.Key().Digest
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.groups[key]; g != nil && g.sessions[s.Namespace()] == s {
		delete(g.sessions, s.Namespace())
		r.tidyLocked(key, g)
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

// find returns the pid of a key's session in a namespace. If there is none any more, it returns why,
// once.
func (r *keyring) find(key, namespace string) (pid string, why reason.Reason) {
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

// owner returns the client that has a key, or nil.
func (r *keyring) owner(key string) *client {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.groups[key]; g != nil {
		return g.owner
	}
	return nil
}

// linkFor returns the link of the sessions that a client of Engine.IO 3 may resume, or nil. presented
// is the digest of what its handshake presents.
func (r *keyring) linkFor(k *keyedClient, presented string) *link {
	if k.foreign.Load() {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.groups[k.key]
	if g == nil || g.binding != presented {
		return nil
	}
	for _, s := range g.sessions {
		if l := linkOf(s); l.translator != nil && l.translator.forV3 {
			return l
		}
	}
	return nil
}

// linkOf returns a link that has sessions of a key, or nil.
func (r *keyring) linkOf(key string) *link {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.groups[key]; g != nil {
		for _, s := range g.sessions {
			return linkOf(s)
		}
	}
	return nil
}
