package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast/holdfast/internal/admin/status"
	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/courier"
	"github.com/holdfast/holdfast/internal/handover"
	"github.com/holdfast/holdfast/internal/netpoll"
	"github.com/holdfast/holdfast/proxy"
)

// handoverer hands the sessions of an instance to another program. Its zero value is for an
// instance that hands nothing over.
type handoverer struct {
	// Immutable.
	in      *instance
	program courier.Program
	environ []string
	hangups chan<- os.Signal // gets SIGHUP
	signals chan os.Signal   // gets courier.Signal

	running sync.Mutex // held by a handover

	mu      sync.Mutex // guards the fields below
	results map[string]uint64
	last    status.Handover
}

// pausable is a listener whose connections can wait.
type pausable interface {
	Pause()
	Resume()
}

// serving is what a handover stops.
type serving struct {
	srv *http.Server
	ln  net.Listener // of the proxy, without TLS
}

// newHandoverer returns a handoverer for which signals are kept until begin.
func newHandoverer(in *instance, environ []string, hangups chan<- os.Signal) *handoverer {
	h := &handoverer{
		in: in, program: courier.Self(), environ: environ, hangups: hangups, results: make(map[string]uint64),
		signals: make(chan os.Signal, 1), // one pending handover covers all signals before it
	}
	h.notify()
	return h
}

// record keeps an outcome, and shows it in metrics and the status report.
func (h *handoverer) record(o outcome) {
	h.in.metrics.Handovers(o.result, 1)
	h.in.metrics.HandoverDuration.Set(o.took.Seconds())
	h.in.metrics.HandoverSessions.Set(float64(o.sessions))
	h.in.metrics.HandoverLostSessions.Set(float64(o.lost))
	h.in.metrics.HandoverCut.Set(float64(o.cut))
	h.in.metrics.HandoverCutClients.Set(float64(o.cutClients))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.results[o.result]++
	var count int64
	for _, n := range h.results {
		count += int64(n)
	}
	h.last = o.status(time.Now(), count)
}

// restoreCounts continues the counts of the process before this one.
func (h *handoverer) restoreCounts(results map[string]uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, result := range courier.Results() {
		if n := results[result]; n > 0 {
			h.results[result] = n
			h.in.metrics.Handovers(result, n)
		}
	}
}

func (h *handoverer) status() status.Handover {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

func (h *handoverer) notify() {
	if courier.Supported {
		signal.Notify(h.signals, courier.Signal)
	}
}

// run hands over for each signal until ctx is done. From then on it rejects handovers until end is
// closed.
func (h *handoverer) run(ctx context.Context, s serving, end <-chan struct{}) {
	for {
		select {
		case <-h.signals:
		case <-end:
			return
		}
		h.running.Lock()
		h.record(h.handOver(ctx, s)) // returns only if it failed
		h.notify()
		signal.Notify(h.hangups, syscall.SIGHUP)
		h.running.Unlock()
	}
}

// stepError is a failure of one step of a handover.
type stepError struct {
	result string
	err    error
}

func (e *stepError) Error() string { return e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// handOver replaces this program by the one on disk. It returns if that failed, and the instance
// then serves as before.
func (h *handoverer) handOver(ctx context.Context, s serving) (o outcome) {
	log := h.in.log
	began := courier.Clock()
	log.Info("handover: begins", "program", h.program.Path)
	err := h.attempt(ctx, s, began)
	o = outcome{result: courier.Failed, reason: oneLine(err.Error()), took: courier.Clock() - began}
	if step, ok := errors.AsType[*stepError](err); ok {
		o.result = step.result
	}
	log.Error("handover: failed, and this process continues", "result", o.result, "reason", o.reason, "took", round(o.took))
	return o
}

// attempt returns why it failed.
func (h *handoverer) attempt(ctx context.Context, s serving, began time.Duration) error {
	if ctx.Err() != nil {
		return &stepError{courier.Rejected, errStopping}
	}
	cfg := h.in.proxy.Config().Handover
	stops := make(chan os.Signal, 1)
	signal.Notify(stops, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(stops)
	// A second signal ends the process.
	defer context.AfterFunc(ctx, func() { signal.Stop(stops) })()
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	if err := h.preflight(ctx, cfg); err != nil {
		return &stepError{courier.Rejected, err}
	}
	file, err := courier.NewSnapshot()
	if err != nil {
		return &stepError{courier.Rejected, err}
	}
	defer file.Close()
	self, err := courier.OpenSelf()
	if err != nil {
		return &stepError{courier.Rejected, err}
	}
	defer self.Close()

	p := handover.Process{Version: h.in.version, Began: began}
	defer h.leave(s, cfg.Leave, cfg.Timeout+restoreTime, &p)()
	freezing := courier.Clock()
	frozen := h.in.proxy.Freeze(netpoll.Barrier)
	defer frozen.Thaw()
	p.Freezing = courier.Clock() - freezing
	fds, err := h.write(file, frozen, p, func(_, fd int) int { return fd })
	if err != nil {
		return fmt.Errorf("write the snapshot: %w", err)
	}
	if cfg.Verify {
		if err := h.verify(ctx, file); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return h.interrupted(ctx)
	}
	frozen.CloseLost(closeLostTimeout)
	inherited := &courier.Inherited{Snapshot: int(file.Fd()), Old: int(self.Fd())}
	return courier.Exec(h.program, h.environ, inherited, fds, func() error {
		signal.Stop(stops) // those that were received are in stops then, and ctx follows later
		select {
		case <-stops:
			return errStopping
		default:
			return h.interrupted(ctx)
		}
	})
}

var errStopping = errors.New("holdfast is being stopped")

// closeLostTimeout bounds the closing handshakes with the server of links that cannot be handed
// over.
const closeLostTimeout = 500 * time.Millisecond

// interrupted returns why a handover must not continue, or nil.
func (h *handoverer) interrupted(ctx context.Context) error {
	switch err := ctx.Err(); {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("it took longer than handover.timeout")
	default:
		return errStopping
	}
}

const (
	// restoreTime is how long other replicas give the next program to restore the sessions.
	restoreTime = 20 * time.Second
	// startTime is how long other replicas wait for the next start by the service manager. If the
	// service is stopped, they notice earlier: the manager closes the listener.
	startTime = 20 * time.Second
)

// leave stops accepting connections and closes all clients. Other replicas expect the next process
// within away. undo serves clients again.
func (h *handoverer) leave(s serving, d, away time.Duration, p *handover.Process) (undo func()) {
	began := courier.Clock()
	ln, _ := s.ln.(pausable)
	if ln != nil {
		ln.Pause()
	}
	s.srv.SetKeepAlivesEnabled(false)
	left := h.in.proxy.Leave(d, away)
	p.Clients, p.Cut, p.Passing = uint64(left.Clients), uint64(left.Cut), uint64(left.Passing)
	p.Leaving = courier.Clock() - began
	return func() {
		h.in.proxy.Stay()
		s.srv.SetKeepAlivesEnabled(true)
		if ln != nil {
			ln.Resume()
		}
	}
}

// write writes the snapshot. It returns the descriptors that the next program needs, first those of
// the listeners. number says what stands for the nth descriptor of a link.
func (h *handoverer) write(file *os.File, frozen *proxy.Frozen, p handover.Process, number func(n, fd int) int) (fds []int, err error) {
	listeners, err := h.in.sockets.records()
	if err != nil {
		return nil, err
	}
	for _, l := range listeners {
		fds = append(fds, l.FD)
	}
	h.mu.Lock()
	p.Results = h.results
	h.mu.Unlock()
	p.Config = h.in.proxy.Config().YAML(nil)
	p.Clock = courier.Clock()
	w := handover.NewWriter(file)
	handed := frozen.Write(w, p, listeners, func(fd int) int {
		fds = append(fds, fd)
		return number(len(fds)-len(listeners)-1, fd)
	})
	if err := w.End(); err != nil {
		return nil, err
	}
	h.in.log.Info("handover: the sessions are written", "clients", p.Clients, "links", handed.Links, "sessions", handed.Sessions,
		"lost_sessions", handed.Lost, "leave", round(p.Leaving), "freeze", round(p.Freezing), "write", round(courier.Clock()-p.Clock))
	return fds, nil
}

// begin lets the handoverer serve an instance. stop waits for a handover in progress, and rejects
// later ones. The caller must call end when nothing is served any more.
func (h *handoverer) begin(s serving) (stop, end func()) {
	if h == nil {
		return func() {}, func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go h.run(ctx, s, ended) // ends with end
	stop = func() {
		cancel()
		h.running.Lock()
		defer h.running.Unlock()
	}
	return stop, func() {
		cancel()
		close(ended)
	}
}

// keep leaves the sessions to the service manager, for the next process. It returns false if that
// is not configured, or fails. Nothing is served after it has returned true.
func (h *handoverer) keep(s serving) bool {
	if h == nil || h.in.manager == nil || h.in.proxy.Config().Handover.Mode != config.HandoverSystemd {
		return false
	}
	err := h.tryKeep(s)
	if err != nil {
		h.in.log.Error("the sessions cannot be kept for the next start", "error", err)
		return false
	}
	h.in.sockets.unlinkUnix(false)
	if h.in.node != nil {
		h.in.node.Suspend() // a bye frame would end the wait of other replicas
	}
	h.in.log.Info("stopped, and the service manager keeps the sessions")
	return true
}

func (h *handoverer) tryKeep(s serving) (err error) {
	cfg := h.in.proxy.Config().Handover
	file, err := courier.NewSnapshot()
	if err != nil {
		return err
	}
	defer file.Close()
	p := handover.Process{Version: h.in.version, Began: courier.Clock()}
	undo := h.leave(s, cfg.Leave, startTime, &p)
	freezing := courier.Clock()
	frozen := h.in.proxy.Freeze(netpoll.Barrier)
	defer func() {
		if err != nil {
			frozen.Thaw()
			undo()
		}
	}()
	p.Freezing = courier.Clock() - freezing
	fds, err := h.write(file, frozen, p, func(n, _ int) int { return n })
	if err != nil {
		return err
	}
	if err := h.in.manager.KeepHandover(int(file.Fd()), fds[len(h.in.sockets.open):]); err != nil {
		return err
	}
	frozen.CloseLost(closeLostTimeout)
	return nil
}

var errOff = errors.New("handover.mode is off")

// allowed returns why a handover is not possible at all.
func (h *handoverer) allowed(cfg config.Handover) error {
	if cfg.Mode == config.HandoverOff {
		return errOff
	}
	return nil
}
