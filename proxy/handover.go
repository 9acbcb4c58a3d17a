package proxy

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/handover"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/upstream"
	"github.com/holdfast/holdfast/session"
)

// A handover moves the links and the parked sessions to another process. Clients are not moved:
// they are closed, and come back by themselves. The steps are
//
//	serving -> leaving   Leave: no new clients; all clients are closed, and their sessions parked
//	leaving -> frozen    Freeze: the links are neither read nor written, and nothing expires
//	frozen  -> leaving   Thaw
//	leaving -> serving   Stay
//
// Between Freeze and Thaw, Frozen.Write writes the snapshot that Restore reads in the next process.
// handover_restore.go has that side.

// leaveSlack is how long after its deadline Leave still waits for clients, because closing them
// takes a moment.
const leaveSlack = 200 * time.Millisecond

// Left says what Leave has found.
type Left struct {
	Clients int // that were closed
	Cut     int // of these, clients that did not end their side in time
	Passing int // requests and WebSockets that still pass through, and raw relays
}

// Leave refuses new clients and closes all clients. First it waits, for less than d, for
// handshakes, and for clients whose messages wait for a primary link. For d after that it handles
// what clients send before they notice that they are closed. When it returns there is no client,
// until Stay. Other replicas count on the return of this one for away.
func (s *Server) Leave(d, away time.Duration) (left Left) {
	s.conns.overdue.Store(0)
	s.phase.move(phaseLeaving)
	announceHandover(s.replicas.clusterNode(), away)
	s.registry.BeginGrace()
	s.awaitFor(d/2, func() bool { return s.conns.openings == 0 })
	s.awaitFor(d/4, func() bool { return s.conns.redials == 0 })
	deadline := time.Now().Add(d)
	raw := s.conns.rawRelays()
	s.replicas.endRelays() // they count as passing until their clients have ended their side
	for {
		clients := s.conns.allClients()
		if len(clients) == 0 {
			break
		}
		left.Clients += len(clients)
		left.Cut += leaveAll(clients, deadline)
	}
	left.Cut += int(s.conns.overdue.Load())
	s.awaitFor(time.Until(deadline), func() bool { return s.conns.passing == 0 })
	s.conns.mu.Lock()
	left.Passing = s.conns.passing + s.conns.webSockets + raw
	s.conns.mu.Unlock()
	return left
}

// awaitFor is conns.await with a timeout.
func (s *Server) awaitFor(d time.Duration, done func() bool) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	s.conns.await(ctx, done)
}

// Stay undoes Leave, after the handover has failed.
func (s *Server) Stay() {
	s.phase.move(phaseServing)
	s.conns.phaseChanged()
	announceHandover(s.replicas.clusterNode(), 0)
}

// rawRelays counts the clients that have no sessions, because they use another parser.
func (t *conns) rawRelays() (n int) {
	for _, l := range t.allLinks() {
		if l.state.is(linkRaw) {
			n++
		}
	}
	return n
}

// leaveAll closes clients, and waits until their sessions are parked. It returns how many did not
// end their side before the deadline.
func leaveAll(clients []*client, deadline time.Time) (cut int) {
	d := max(time.Until(deadline), time.Millisecond)
	inParallel(clients, func(c *client) { c.sock.Leave(d) })
	timeout := time.NewTimer(d + leaveSlack)
	defer timeout.Stop()
	for i, c := range clients {
		select {
		case <-c.done.Done():
			continue
		case <-timeout.C:
		}
		for _, c := range clients[i:] {
			if !c.done.HasFired() {
				cut++
				c.abort(reason.Handover)
			}
			c.deps.conns.removeClient(c)
		}
		break
	}
	return cut
}

// inParallel calls fn for all elements, on all processors.
func inParallel[T any](list []T, fn func(T)) {
	n := runtime.GOMAXPROCS(0)
	var wg sync.WaitGroup
	for part := range slices.Chunk(list, max(1, (len(list)+n-1)/n)) {
		wg.Go(func() {
			for _, v := range part {
				fn(v)
			}
		})
	}
	wg.Wait()
}

// Frozen is a Server whose links and sessions do not change.
type Frozen struct {
	srv   *Server
	links []*link            // can be handed over
	lost  []*link            // have sessions, but cannot be handed over
	ends  []*session.Session // of lost
}

// Handed is what a snapshot contains.
type Handed struct {
	Links, Sessions int
	Lost            int // sessions that cannot be handed over
}

// Freeze stops the links, and expiry. Call it after Leave.
func (s *Server) Freeze(barrier func()) *Frozen {
	s.registry.Freeze() // no client gets a session from here on
	for _, c := range s.conns.allClients() {
		c.abort(reason.Handover) // its handshake took longer than Leave
	}
	f := &Frozen{srv: s}
	for _, l := range s.conns.allLinks() {
		if !l.state.is(linkRaw) && l.conn.Freeze() {
			f.links = append(f.links, l)
		} else if !l.sessions.empty() {
			f.lost = append(f.lost, l)
		}
	}
	barrier()
	for _, l := range f.lost {
		f.ends = append(f.ends, slices.DeleteFunc(l.sessions.all(), func(s *session.Session) bool {
			return s.State() != session.Parked
		})...)
	}
	return f
}

// Thaw undoes Freeze.
func (f *Frozen) Thaw() {
	for _, l := range f.links {
		l.conn.Thaw()
	}
	f.srv.registry.Thaw()
}

// CloseLost ends the links that cannot be handed over, within d. Their sessions end. Without it the
// server would learn late that a polling connection has ended.
func (f *Frozen) CloseLost(d time.Duration) {
	for _, l := range f.lost {
		l.conn.Close()
	}
	timeout := time.After(d)
	for _, l := range f.lost {
		select {
		case <-l.done.Done():
		case <-timeout:
			return
		}
	}
}

// Write writes the snapshot, except for its end. p is what the caller knows about the process, and
// listeners follow it. fds are the descriptors of the links, in their order; number returns what
// stands for one in the snapshot.
func (f *Frozen) Write(w *handover.Writer, p handover.Process, listeners []handover.Listener, number func(fd int) int) Handed {
	handed := Handed{Lost: len(f.ends)}
	f.srv.describe(&p)
	for _, s := range f.ends {
		p.Ends = append(p.Ends, handover.End{PID: s.PID(), Reason: string(reason.UpstreamLost)})
	}
	p.Lost = uint64(len(f.ends))
	w.Process(&p)
	for i := range listeners {
		w.Listener(&listeners[i])
	}
	x := session.NewExporter(w)
	for _, l := range f.links {
		var out handover.Link
		if !exportLink(l, &out) {
			continue
		}
		out.FD, out.Server = number(out.FD), upstream.ServerOf(l.conn).String()
		w.Link(&out)
		handed.Links++
		for _, s := range l.sessions.all() {
			if x.Session(s) {
				handed.Sessions++
			}
		}
	}
	return handed
}

// describe fills in what the Server knows about the process.
func (s *Server) describe(p *handover.Process) {
	p.Handshakes = s.handshaker.count.Load()
	p.Ends = s.registry.Ends().Export()
	p.KeySalt = s.keyring.Export()
	if s.replicas != nil {
		p.Owner = []byte(s.replicas.node.ID())
	}
	p.BindKey, p.BindSum = s.binder.Export()
}

// exportLink describes a frozen link. It returns false if the link has ended, or has nothing to
// hand over.
func exportLink(l *link, out *handover.Link) bool {
	if !l.conn.Export(out) {
		return false
	}
	if p := l.assembler.partial; p != nil { // the barrier has passed: the loop does not use it
		out.Partial, out.PartialNeed, out.PartialAttachments = p.data, p.need, p.attachments
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.translator != nil {
		out.Translation = l.translator.exportLocked()
	}
	out.Used = !l.state.is(linkUnused)
	out.Disconnected = l.spaces.all(func(s *linkSpace) bool { return s.state == spaceDisconnected })
	out.Ended = l.spaces.all(func(s *linkSpace) bool { return s.dropLate })
	_, out.Pending = l.spaces.allWaiting()
	return !l.state.is(linkEnded) && (!l.sessions.empty() || l.spaces.asked > 0)
}

// Restore takes over the links and sessions of a snapshot, before the Server serves anyone.
// elapsed is the time since it was written. conn returns the socket that a number in the snapshot
// stands for. behind is told how much of data has been read. begin is called when everything is
// built, and before the first byte of a link is read. An error is not expected after
// handover.Verify; what was restored before it stays.
func (s *Server) Restore(data []byte, elapsed time.Duration, conn func(fd int) int, behind func(bytes int), begin func()) (Restored, error) {
	r := restorer{srv: s, elapsed: elapsed, conn: conn, sessions: session.NewImporter(s.registry, elapsed)}
	err := handover.Read(data, handover.Handler{
		Process: r.process, Blob: r.sessions.Blob, Link: r.link, Session: r.session, Behind: behind,
		Group: func(g *handover.Group) error {
			r.sessions.Group(g)
			return nil
		},
	})
	begin()
	r.finish()
	return r.done, err
}

// Sessions returns how many sessions are live and parked.
func (s *Server) Sessions() (live, parked int) { return s.registry.Counts() }

// BufferedBytes returns about how much memory the packets of all sessions take.
func (s *Server) BufferedBytes() int64 { return s.budget.Bytes() }
