package status

import (
	"slices"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/reason"
)

const (
	// latest is how many recoveries, and how many failures, are remembered.
	latest = 50
	// step is the time that one element of the History covers, and steps their number.
	step  = 5 * time.Second
	steps = 180
	// maxError is how many bytes of an error's text a Report contains.
	maxError = 200
)

// DialResult is how a handshake with the upstream ended.
type DialResult int

// Results of a handshake. The upstream answered the first two.
const (
	DialOK DialResult = iota
	DialRejected
	DialError
	DialTimeout
	dialResults
)

// Recorder remembers the past for a Report. It is safe for concurrent use, and fast.
type Recorder struct {
	started time.Time // immutable

	mu         sync.Mutex // guards the fields below
	recovered  map[reason.Reason]int64
	failed     map[reason.Reason]int64
	recoveries ring[Recovery]
	failures   ring[Failure]
	poisons    ring[Poison]
	poisoned   int64
	buckets    [steps]bucket
	bucket     int64 // number of the newest bucket, counted from started
	dials      [dialResults]int64
	lastAnswer time.Time
	lastFail   time.Time
	lastError  error
}

// bucket counts what happened within one step.
type bucket struct{ recovered, failed int }

// NewRecorder returns a Recorder that starts now.
func NewRecorder() *Recorder {
	return &Recorder{
		started: time.Now(), recovered: make(map[reason.Reason]int64), failed: make(map[reason.Reason]int64),
	}
}

// Recovered records a recovery that happens now.
func (r *Recorder) Recovered(e Recovery) {
	e.Time, e.Namespace = time.Now(), ShortNamespace(e.Namespace)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recovered[e.Reason]++
	r.recoveries.add(e)
	r.bucketLocked(e.Time).recovered++
}

// Failed records a recovery that fails now.
func (r *Recorder) Failed(e Failure) {
	e.Time, e.Namespace = time.Now(), ShortNamespace(e.Namespace)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed[e.Reason]++
	r.failures.add(e)
	r.bucketLocked(e.Time).failed++
}

// Poisoned records a packet that was left out now.
func (r *Recorder) Poisoned(e Poison) {
	e.Time, e.Namespace = time.Now(), ShortNamespace(e.Namespace)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.poisoned++
	r.poisons.add(e)
}

// Dialled records a handshake with the upstream that ends now. err says why there was no answer.
func (r *Recorder) Dialled(result DialResult, err error) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dials[result]++
	switch result {
	case DialOK, DialRejected:
		r.lastAnswer = now
	default:
		r.lastFail, r.lastError = now, err
	}
}

// bucketLocked returns the bucket of a time, and clears those between it and the newest one. r.mu
// must be held.
func (r *Recorder) bucketLocked(t time.Time) *bucket {
	n := int64(t.Sub(r.started) / step)
	for i := max(r.bucket+1, n-steps+1); i <= n; i++ {
		r.buckets[i%steps] = bucket{}
	}
	r.bucket = max(r.bucket, n)
	return &r.buckets[r.bucket%steps]
}

// Report returns a Report that contains what the Recorder knows.
func (r *Recorder) Report() Report {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	report := Report{
		Version:        Version,
		Time:           now.UTC(),
		Holdfast:       Holdfast{State: Serving, Started: r.started.UTC(), UptimeSeconds: now.Sub(r.started).Seconds()},
		Upstream:       r.upstreamLocked(),
		History:        r.historyLocked(now),
		LatestRecovery: r.recoveries.newestFirst(),
		LatestFailure:  r.failures.newestFirst(),
		Poison:         Poisons{r.poisoned, r.poisons.newestFirst()},
		Parked:         []Parked{},
		Cluster:        Cluster{Peers: []Peer{}},
	}
	rec := &report.Recoveries
	for _, why := range reason.Recovered() {
		n := r.recovered[why]
		rec.Recovered += n
		rec.Reasons = append(rec.Reasons, ReasonCount{"recovered", why, n, why.Meaning()})
	}
	for _, why := range reason.Failed() {
		n := r.failed[why]
		rec.Failed += n
		rec.Reasons = append(rec.Reasons, ReasonCount{"failed", why, n, why.Meaning()})
	}
	return report
}

func (r *Recorder) upstreamLocked() Upstream {
	u := Upstream{
		Health: HealthUnknown, Servers: []Server{},
		Handshakes: Handshakes{
			OK: r.dials[DialOK], Rejected: r.dials[DialRejected], Error: r.dials[DialError], Timeout: r.dials[DialTimeout],
		},
	}
	if !r.lastAnswer.IsZero() {
		t := r.lastAnswer.UTC()
		u.Health, u.LastAnswer = HealthOK, &t
	}
	if !r.lastFail.IsZero() {
		t := r.lastFail.UTC()
		u.LastFailure = &t
		if r.lastError != nil {
			u.LastError = shorten(r.lastError.Error(), maxError)
		}
		if r.lastFail.After(r.lastAnswer) {
			u.Health = HealthFailing
		}
	}
	return u
}

func (r *Recorder) historyLocked(now time.Time) History {
	r.bucketLocked(now)
	first := max(0, r.bucket-steps+1)
	h := History{StepSeconds: int(step.Seconds()), Start: r.started.Add(time.Duration(first) * step).UTC()}
	for i := first; i <= r.bucket; i++ {
		b := r.buckets[i%steps]
		h.Recovered = append(h.Recovered, b.recovered)
		h.Failed = append(h.Failed, b.failed)
	}
	return h
}

// ring keeps the latest elements.
type ring[T any] struct {
	elements []T
	next     int // which element to replace next, when the ring is full
}

func (r *ring[T]) add(e T) {
	if len(r.elements) < latest {
		r.elements = append(r.elements, e)
		return
	}
	r.elements[r.next] = e
	r.next = (r.next + 1) % latest
}

func (r *ring[T]) newestFirst() []T {
	list := append(make([]T, 0, len(r.elements)), r.elements[r.next:]...)
	list = append(list, r.elements[:r.next]...)
	slices.Reverse(list)
	return list
}
