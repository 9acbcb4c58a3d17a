package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/holdfast/holdfast/internal/admin/status"
	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/courier"
	"github.com/holdfast/holdfast/internal/handover"
	"github.com/holdfast/holdfast/proxy"
)

// takeover is what this process got from its predecessor, by an exec or from the service manager's
// store. It is nil if there was no predecessor. It changes nothing before commit, so that the old
// program can still continue, or the store keeps its contents.
type takeover struct {
	in        *courier.Inherited // nil if it comes from the store
	stored    *courier.Stored    // nil if it comes from an exec
	environ   []string
	snapshot  *courier.Snapshot
	summary   *handover.Summary
	links     []int // the links' sockets, in the store's order
	committed bool
}

// newTakeover returns nil if nothing was handed over.
func newTakeover(in *courier.Inherited, stored *courier.Stored, environ []string) *takeover {
	switch {
	case in != nil:
		return &takeover{in: in, environ: environ}
	case stored != nil && stored.Snapshot >= 0:
		return &takeover{stored: stored, environ: environ}
	}
	return nil
}

// read reads the whole snapshot, without any effect.
func (t *takeover) read() error {
	var fd int
	if t.in != nil {
		fd = t.in.Snapshot
	} else {
		fd = t.stored.Snapshot
	}
	s, err := courier.OpenSnapshot(fd)
	if err != nil {
		return err
	}
	t.snapshot = s
	if t.summary, err = handover.Verify(s.Data); err != nil {
		return err
	}
	if t.in != nil {
		return courier.CheckSockets(t.summary.LinkFDs)
	}
	if t.links, err = t.stored.Links(); err != nil {
		return err
	}
	for _, n := range t.summary.LinkFDs {
		if n >= len(t.links) {
			return fmt.Errorf("the snapshot has link %d, but there are %d sockets", n, len(t.links))
		}
	}
	return courier.CheckSockets(t.links)
}

// abandon closes everything that was handed over, because it cannot be read. The server sees the
// links end. The listeners of a store stay.
func (t *takeover) abandon() {
	if t.snapshot != nil {
		_ = t.snapshot.Unmap() // it was only read
	}
	for _, fd := range t.links {
		if fd > 0 { // not one that is missing
			courier.CloseFD(fd)
		}
	}
	if t.stored != nil {
		t.stored.Discard()
	} else {
		courier.CloseFD(t.in.Snapshot)
		courier.CloseSockets()
	}
}

// socket returns the descriptor that stands for a number in the snapshot.
func (t *takeover) socket(n int) int {
	if t.in != nil {
		return n
	}
	return t.links[n]
}

// restored reports whether this is the old program again, because the new one could not take over.
func (t *takeover) restored() bool { return t != nil && t.in != nil && t.in.Failure != "" }

// config returns the configuration of the old program.
func (t *takeover) config() (config.Config, error) { return config.LoadYAML(t.summary.Process.Config) }

// canGoBack reports whether the old program can continue.
func (t *takeover) canGoBack() bool { return t.in != nil && t.in.Old >= 0 }

// back lets the old program continue, after this one failed with err. It returns only if that is
// not possible, or if ctx is done because the process stops.
func (t *takeover) back(ctx context.Context, err error) error {
	if err == nil || t == nil || t.committed || !t.canGoBack() || ctx.Err() != nil {
		return err
	}
	return errors.Join(err, t.in.Back(t.environ, errors.New(oneLine(err.Error()))))
}

// commit restores the sessions. There is no way back from here on.
func (t *takeover) commit(p *proxy.Server, log *slog.Logger) (o outcome) {
	t.committed = true
	if t.in != nil {
		if t.in.Old >= 0 {
			courier.CloseFD(t.in.Old)
		}
		courier.SetCloseOnExec(t.in.Snapshot)
	}
	from := &t.summary.Process
	began := courier.Clock()
	done, err := p.Restore(t.snapshot.Data, began-from.Clock, t.socket, t.snapshot.Free, t.markUsed)
	_ = t.snapshot.Close() // it was only read
	if t.stored != nil {
		t.stored.Close()
	}
	now := courier.Clock()
	o = outcome{
		result: courier.OK, took: now - from.Began, sessions: done.Sessions, lost: int(from.Lost) + done.Failed, cut: int(from.Passing), cutClients: int(from.Cut),
		leave: from.Leaving, freeze: from.Freezing, pass: began - from.Clock, restore: now - began,
	}
	if t.restored() {
		o.result, o.reason = courier.Restored, t.in.Failure
	}
	level := slog.LevelInfo
	if o.result != courier.OK || err != nil {
		level = slog.LevelError
	}
	attrs := []any{
		"result", o.result, "from_version", from.Version, "clients", from.Clients, "links", done.Links, "sessions", done.Sessions,
		"lost_sessions", o.lost, "cut_clients", from.Cut, "cut_connections", from.Passing,
		"leave", round(o.leave), "freeze", round(o.freeze), "pass", round(o.pass), "restore", round(o.restore),
		"total", round(o.took),
	}
	if o.reason != "" {
		attrs = append(attrs, "reason", o.reason)
	}
	if err != nil { // not after read has succeeded
		attrs = append(attrs, "error", err)
	}
	log.Log(context.Background(), level, "handover: this process has taken over", attrs...)
	return o
}

// markUsed makes a later process refuse this snapshot if it gets it from the store. Otherwise that
// process would continue with links that this process has read from.
func (t *takeover) markUsed() {
	if t.stored != nil {
		_ = handover.MarkUsed(t.snapshot) // it is in memory
	}
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// outcome is how a handover ended.
type outcome struct {
	result, reason string
	took           time.Duration
	sessions, lost int
	cut            int // connections without a session
	cutClients     int // that did not end their connection in time
	// Parts of took; see status.Handover.
	leave, freeze, pass, restore time.Duration
}

// status returns the outcome for the status report.
func (o outcome) status(at time.Time, count int64) status.Handover {
	return status.Handover{
		Count: count, Time: new(at.UTC()), Result: o.result, Reason: o.reason, DurationSeconds: o.took.Seconds(),
		Sessions: o.sessions, LostSessions: o.lost, CutConnections: o.cut, CutClients: o.cutClients,
		LeaveSeconds: o.leave.Seconds(), FreezeSeconds: o.freeze.Seconds(), PassSeconds: o.pass.Seconds(),
		RestoreSeconds: o.restore.Seconds(),
	}
}

// maxReason bounds a reason, which becomes an environment variable and a field of the status
// report.
const maxReason = 500

// oneLine makes a line of limited length of an error's text.
func oneLine(text string) string {
	line := []rune(text)
	if len(line) > maxReason {
		line = append(line[:maxReason], '…')
	}
	for i, r := range line {
		if r < ' ' {
			line[i] = ' '
		}
	}
	return string(line)
}
