package session

import (
	"time"

	"github.com/holdfast/holdfast/internal/reason"
)

// ParkedInfo describes a parked session to an operator: nothing in it identifies a client.
type ParkedInfo struct {
	Namespace string
	Since     time.Time
	Expires   time.Time
	Reason    reason.Reason // as given to Park
	Packets   int           // that wait for the client
	Bytes     int           // what they take, about
}

// OldestParked describes the n sessions that have been parked longest, the oldest first. The Registry's lock is held
// for n steps, however many are parked.
func (r *Registry) OldestParked(n int) []ParkedInfo {
	r.mu.Lock()
	n = min(n, r.parked.Len())
	sessions, infos := make([]*Session, 0, n), make([]ParkedInfo, 0, n)
	for e := r.parked.Front(); e != nil && len(infos) < n; e = e.Next() {
		s := parkedIn(e)
		sessions = append(sessions, s)
		infos = append(infos, ParkedInfo{Namespace: s.namespace, Expires: s.parking.expires, Reason: s.parking.why})
	}
	r.mu.Unlock()
	for i, s := range sessions { // some may have been resumed meanwhile: this is a picture, not a promise
		s.mu.Lock()
		infos[i].Since, infos[i].Packets, infos[i].Bytes = s.parkedAt, s.log.Packets(), s.log.Bytes()
		s.mu.Unlock()
	}
	return infos
}
