package proxy

import (
	"time"

	"github.com/holdfast/holdfast/internal/handover"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/session"
)

// Restored is what Restore has made of a snapshot.
type Restored struct {
	Links, Sessions int
	Failed          int // sessions that could not be restored
}

type restorer struct {
	srv      *Server
	elapsed  time.Duration
	conn     func(fd int) int
	sessions *session.Importer
	links    []*link
	current  *link  // nil if it could not be restored
	unbound  bool   // recovery.bind has changed: sessions with a binding end
	owned    uint64 // the latest client that has owned a session
	done     Restored
}

func (r *restorer) process(p *handover.Process) error {
	s := r.srv
	s.handshaker.count.Store(p.Handshakes)
	s.registry.Ends().Import(p.Ends)
	s.keyring.Restore(p.KeySalt)
	r.unbound = !s.binder.Restore(p.BindKey, p.BindSum)
	return nil
}

func (r *restorer) link(in *handover.Link) error {
	r.current = nil
	in.FD = r.conn(in.FD)
	c, err := r.srv.upstream.Restore(in, r.elapsed)
	if err != nil {
		r.srv.log.Warn("a link could not be taken over", "error", err)
		return nil
	}
	l := newLink(r.srv.deps, c, nil, in.Translation.Query)
	if l.translator != nil {
		l.translator.restore(&in.Translation)
	}
	restoreSpaces(l, in)
	if in.PartialNeed > 0 {
		l.assembler.restore(in.Partial, in.PartialNeed, in.PartialAttachments, l)
	}
	r.links = append(r.links, l)
	r.current = l
	return nil
}

// restoreSpaces restores the namespaces of a link that was not started.
func restoreSpaces(l *link, in *handover.Link) {
	if in.Used {
		l.state.moveLocked(linkUsed)
	}
	for _, namespace := range in.Ended {
		l.spaces.ended(namespace)
	}
	for _, namespace := range in.Pending { // the clients are gone: replies are answered with DISCONNECTs
		l.spaces.connect(namespace, &connecting{})
	}
	for _, namespace := range in.Disconnected {
		l.spaces.move(namespace, spaceDisconnected)
	}
}

func (r *restorer) session(in *handover.Session) error {
	l := r.current
	if l == nil || r.unbound && in.Binding != "" {
		r.done.Failed++
		r.srv.registry.Ends().Import([]handover.End{{PID: in.PID, Reason: r.failure(in)}})
		return nil
	}
	s, err := r.sessions.Session(l, in)
	if err != nil {
		return err
	}
	l.sessions.set(s.Namespace(), s)
	r.owned = max(r.owned, in.Owned)
	if s.Keyed() {
		r.srv.keyring.AddRestored(s)
	}
	r.done.Sessions++
	return nil
}

// failure returns the reason of a session that cannot be restored.
func (r *restorer) failure(in *handover.Session) string {
	if r.unbound && in.Binding != "" {
		return string(reason.Binding)
	}
	return string(reason.UpstreamLost)
}

// finish lets clients resume the sessions, and starts the links.
func (r *restorer) finish() {
	r.sessions.Finish()
	r.srv.handshaker.continueAfter(r.owned)
	r.done.Links = len(r.links)
	for _, l := range r.links {
		r.srv.conns.addLink(l)
		if l.spaces.asked > 0 {
			l.conn.AfterFunc(lateReply, l.stopWaiting)
		}
		l.conn.StartRestored(l.handler())
		l.closeIfUnused() // for example because its sessions could not be restored
	}
}
