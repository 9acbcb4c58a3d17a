package proxy

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/holdfast/holdfast/internal/config"
)

// turns is a rig with clients that are sent large messages at the same time, for which there is not
// enough memory.
type turns struct {
	*rig
	clients, servers []*peer
	links            []*link
	frame            []byte // a message, as the server sends it
}

const turnsPart = 350 << 10 // of a message; three exceed the limit of 1 MiB

func newTurns(t *testing.T, patience time.Duration) *turns {
	r, s := newScriptedRig(t, func(c *config.Config) { c.Recovery.Buffer.TotalBytes = 4 * config.MiB })
	u := &turns{rig: r}
	r.proxy.incomplete.mu.Lock()
	r.proxy.incomplete.patience = patience
	r.proxy.incomplete.mu.Unlock()
	var b bytes.Buffer
	if err := wsutil.WriteMessage(&b, ws.StateServerSide, ws.OpText, []byte(`42["big","`+strings.Repeat("x", 2*turnsPart)+`"]`)); err != nil {
		t.Fatal(err)
	}
	u.frame = b.Bytes()
	seen := map[*link]bool{}
	for range 4 {
		c, up := r.dial(), s.accept()
		c.send("40")
		up.want("40")
		up.send(`40{"sid":"a"}`)
		c.want("40{")
		u.clients, u.servers = append(u.clients, c), append(u.servers, up)
		r.proxy.conns.mu.Lock()
		for l := range r.proxy.conns.links {
			if !seen[l] {
				seen[l] = true
				u.links = append(u.links, l)
			}
		}
		r.proxy.conns.mu.Unlock()
	}
	return u
}

// begin sends a part of a message on each link, and returns which link has the turn.
func (u *turns) begin() (turn int) {
	u.t.Helper()
	i := &u.proxy.incomplete
	for n, up := range u.servers {
		part := u.frame[:turnsPart]
		go func() { _, _ = up.conn.Write(part) }() // a failure shows as a message that does not arrive
		if n < 2 {
			u.await("a part of a message", func() bool { return u.links[n].arriving.Load() == turnsPart })
		}
	}
	u.await("a link to have the turn, and one to wait", func() bool {
		i.mu.Lock()
		defer i.mu.Unlock()
		for n, l := range u.links {
			if i.turn == l {
				turn = n
			}
		}
		return i.turn != nil && len(i.waiting) > 0
	})
	return turn
}

// end sends the rest of the message on a link.
func (u *turns) end(n int) {
	up, rest := u.servers[n], u.frame[turnsPart:]
	go func() { _, _ = up.conn.Write(rest) }()
}

// wantAll waits for the message at all clients but one, and for the release of all memory.
func (u *turns) wantAll(but int) {
	u.t.Helper()
	for n, c := range u.clients {
		if n != but {
			c.want(`42["big","xxx`)
		}
	}
	i := &u.proxy.incomplete
	u.await("the memory to be released", func() bool {
		i.mu.Lock()
		defer i.mu.Unlock()
		return i.bytes.Load() == 0 && i.turn == nil && len(i.waiting) == 0 && !i.short.Load()
	})
}

// A broadcast may arrive on more links than there is memory for. They take turns, and no session is
// lost.
func TestLinksWithoutMemoryTakeTurns(t *testing.T) {
	u := newTurns(t, time.Hour)
	turn := u.begin()
	for n := range u.links {
		if n != turn {
			u.end(n)
		}
	}
	u.end(turn)
	u.wantAll(-1)
}

func TestTurnPassesOnWhenItsLinkEnds(t *testing.T) {
	u := newTurns(t, time.Hour)
	turn := u.begin()
	u.servers[turn].conn.Close()
	for n := range u.links {
		if n != turn {
			u.end(n)
		}
	}
	u.wantAll(turn)
}

// A slow client must not make all others wait.
func TestTurnPassesOnWhenItsLinkIsPaused(t *testing.T) {
	u := newTurns(t, time.Hour)
	turn := u.begin()
	l := u.links[turn]
	l.SetReadPaused(true)
	for n := range u.links {
		u.end(n)
	}
	for n, c := range u.clients {
		if n != turn {
			c.want(`42["big","xxx`)
		}
	}
	l.SetReadPaused(false)
	u.clients[turn].want(`42["big","xxx`)
	u.clients = nil
	u.wantAll(-1)
}

// A server that stops in the middle of its message must not make the others wait until its
// heartbeat ends its link. When it continues, its client gets the message.
func TestTurnPassesOnWhenItsServerStalls(t *testing.T) {
	u := newTurns(t, 200*time.Millisecond)
	turn := u.begin()
	for n := range u.links {
		if n != turn {
			u.end(n)
		}
	}
	for n, c := range u.clients {
		if n != turn {
			c.want(`42["big","xxx`)
		}
	}
	u.end(turn)
	u.clients[turn].want(`42["big","xxx`)
	u.clients = nil
	u.wantAll(-1)
}

// A turn lasts while bytes arrive, and while there is too little memory for the next link's
// message beside what has arrived of this one.
func TestTurnLasts(t *testing.T) {
	u := newTurns(t, time.Hour)
	turn := u.begin()
	i, l := &u.proxy.incomplete, u.links[turn]
	check := func(arrived int64) (has bool) {
		i.mu.Lock()
		number := i.turns
		i.mu.Unlock()
		i.checkTurn(number, arrived)
		i.checkTurn(number, l.arriving.Load()) // it is about a turn that is over
		i.mu.Lock()
		defer i.mu.Unlock()
		return i.turn == l
	}
	if !check(l.arriving.Load() - 1) {
		t.Error("the turn has passed on although bytes have arrived")
	}
	const much = 1 << 20
	i.bytes.Add(much)
	if !check(l.arriving.Load()) {
		t.Error("the turn has passed on although there is no memory for others")
	}
	i.bytes.Add(-much)
	if check(l.arriving.Load()) {
		t.Error("the turn has not passed on")
	}
	for n := range u.links {
		u.end(n)
	}
	u.wantAll(-1)
}

// One that waits and ends is forgotten.
func TestLinkThatWaitsForMemoryEnds(t *testing.T) {
	u := newTurns(t, time.Hour)
	u.begin()
	i := &u.proxy.incomplete
	i.mu.Lock()
	waits := i.waiting[0]
	i.mu.Unlock()
	gone := -1
	for n, l := range u.links {
		if l == waits {
			gone = n
		}
	}
	u.clients[gone].conn.Close()
	waits.Abort()
	u.servers[gone].conn.Close()
	for n := range u.links {
		if n != gone {
			u.end(n)
		}
	}
	u.wantAll(gone)
}
