package proxy

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/internal/config"
)

const (
	// The incomplete messages of all clients together may take the memory budget divided by
	// incompleteShare.
	incompleteShare = 4
	// freeIncompleteBytes is how large a packet may be without being counted, so that small ones
	// pass even when memory is short.
	freeIncompleteBytes = 16 << 10
	// oneRead is about how much more of a message a link may have after one read.
	oneRead = 128 << 10
	// turnTime is how long a link has the turn while nothing of its message arrives.
	turnTime = 2 * time.Second
)

// incomplete counts the bytes of what has arrived only in part: messages, POST bodies, and binary
// packets without all their attachments. It also counts what waits for a connection to the
// upstream. Each is bounded, but every connection may have one.
//
// A client that exceeds the limit is closed. A link that does waits instead: a large broadcast
// arrives on all links at the same time. It is not read until there is memory again. One link has
// the turn. It may exceed the limit, so that its message becomes complete and releases its memory:
//
//	reading -> turn      there is no memory, and no other link has the turn
//	reading -> waiting   there is no memory, and another link has the turn
//	waiting -> turn      the other's message is complete, its link has ended, or it is paused
//	waiting -> reading   there is memory again
//	turn    -> reading   its message is complete, or its client is too slow
//	turn    -> reading   nothing of its message has come for turnTime, and there is memory for another's
type incomplete struct {
	limit int64 // 0 means no limit
	bytes atomic.Int64
	// short says that a link has the turn. It is read without mu.
	short  atomic.Bool
	waking atomic.Bool // a goroutine will call wake

	mu       sync.Mutex    // guards the fields below; taken before a link's pauseMu
	turn     *link         // nil if no link waits
	turns    uint64        // how often a link was given the turn
	patience time.Duration // turnTime, except in tests
	waiting  []*link       // in order; they are not read
}

// take counts n more bytes. A negative n releases bytes. If n would exceed the limit, take counts
// nothing and returns false.
func (i *incomplete) take(n int) bool {
	total := i.bytes.Add(int64(n))
	if n <= 0 {
		i.released()
		return true
	}
	if i.limit == 0 || total <= i.limit {
		return true
	}
	i.bytes.Add(int64(-n))
	return false
}

// largest returns how large a single message can be.
func (i *incomplete) largest() int64 {
	if i.limit == 0 {
		return int64(config.MaxMaxPayload)
	}
	return max(i.limit, int64(config.DefaultMaxPayload))
}

// takeBeyond counts n bytes beyond the limit. The link then has the turn, or waits. The link that
// has the turn may take the limit for itself. All others together may exceed it by half: a link
// that waits has what one read brought.
func (i *incomplete) takeBeyond(l *link, n int) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.short.Store(true)
	if i.turn == nil && len(i.waiting) == 0 && !l.readPaused() {
		i.giveTurnLocked(l)
	}
	i.bytes.Add(int64(n))
	ok := l.arriving.Load() <= i.limit
	if i.turn != l {
		ok = i.others(i.turn) <= i.limit+i.limit/2
	}
	if !ok {
		i.bytes.Add(int64(-n))
		return false
	}
	if i.turn != l && !slices.Contains(i.waiting, l) {
		l.pauseReading(true)
		i.waiting = append(i.waiting, l)
		i.released()
		l.deps.limitedLog.Log(slog.LevelInfo, "", "large messages from the server wait for memory", "key", "recovery.buffer.total_bytes")
	}
	return true
}

// others returns the bytes of all but the link with the turn, which may be nil.
func (i *incomplete) others(turn *link) int64 {
	if turn == nil {
		return i.bytes.Load()
	}
	return i.bytes.Load() - turn.arriving.Load()
}

// giveTurnLocked gives the link the turn, and checks after a while whether it makes progress.
func (i *incomplete) giveTurnLocked(l *link) {
	i.turns++
	i.turn = l
	number, arrived := i.turns, l.arriving.Load()
	time.AfterFunc(i.patience, func() {
		l.deps.safely(func() { i.checkTurn(number, arrived) })
	})
}

// checkTurn ends a turn in which nothing has arrived: the link's server may be stopped, and the
// others must not wait until a heartbeat shows that. The link itself stays: many servers stall for
// seconds and then continue. It keeps the turn if too little would be left of what the others may
// have together.
func (i *incomplete) checkTurn(number uint64, arrived int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	l := i.turn
	switch {
	case l == nil || i.turns != number:
	case len(i.waiting) > 0 && l.arriving.Load() == arrived && i.others(i.waiting[0]) <= i.limit+i.limit/4:
		i.turn = nil
		i.released()
		l.deps.limitedLog.Log(slog.LevelInfo, "", "a server has stopped in the middle of a large message: others go first",
			"bytes", arrived, "key", "recovery.buffer.total_bytes")
	default:
		i.giveTurnLocked(l)
	}
}

// passOn ends the link's turn, if it has it.
func (i *incomplete) passOn(l *link) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.turn == l {
		i.turn = nil
		i.released()
	}
}

// leave is called when the link has ended.
func (i *incomplete) leave(l *link) {
	if !i.short.Load() {
		return
	}
	i.passOn(l)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.waiting = slices.DeleteFunc(i.waiting, func(w *link) bool { return w == l })
}

// released wakes links that wait, in a goroutine: the caller may hold locks.
func (i *incomplete) released() {
	if i.short.Load() && i.waking.CompareAndSwap(false, true) {
		go i.wake() // does not wait
	}
}

// wake gives the turn to the first link that waits, if no other has it, and lets more links read if
// there is memory.
func (i *incomplete) wake() {
	i.waking.Store(false)
	i.mu.Lock()
	defer i.mu.Unlock()
	room := i.limit - i.bytes.Load()
	for len(i.waiting) > 0 && (i.turn == nil || room >= oneRead) {
		l := i.waiting[0]
		i.waiting = slices.Delete(i.waiting, 0, 1)
		l.deps.safely(func() {
			if reads := l.pauseReading(false); reads && i.turn == nil {
				i.giveTurnLocked(l)
			}
		})
		room -= oneRead
	}
	i.short.Store(i.turn != nil)
}
