package app

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/holdfast/holdfast/internal/admin/status"
	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/courier"
	"github.com/holdfast/holdfast/internal/handover"
	"github.com/holdfast/holdfast/proxy"
)

// takeover is what this process got from the one before it. It is nil if there was none. Until
// commit it changes nothing, so that the old program can still continue.
type takeover struct {
	in        *courier.Inherited
	environ   []string
	snapshot  *courier.Snapshot
	summary   *handover.Summary
	committed bool
}

// newTakeover returns nil if nothing was handed over.
func newTakeover(in *courier.Inherited, environ []string) *takeover {
	if in == nil {
		return nil
	}
	return &takeover{in: in, environ: environ}
}

// read reads the whole snapshot, without any effect.
func (t *takeover) read() error {
	s, err := courier.OpenSnapshot(t.in.Snapshot)
	if err != nil {
		return err
	}
	t.snapshot = s
	if t.summary, err = handover.Verify(s.Data); err != nil {
		return err
	}
	return courier.CheckSockets(t.summary.LinkFDs)
}

// restored reports whether this is the old program again, because the new one could not take over.
func (t *takeover) restored() bool { return t != nil && t.in.Failure != "" }

// config returns the configuration of the old program.
func (t *takeover) config() (config.Config, error) { return config.LoadYAML(t.summary.Process.Config) }

// back lets the old program continue, after this one failed with err. It returns only if that is not
// possible.
func (t *takeover) back(err error) error {
	if err == nil || t == nil || t.committed || t.in.Old < 0 {
		return err
	}
	return errors.Join(err, t.in.Back(t.environ, errors.New(oneLine(err.Error()))))
}

// commit restores the sessions. There is no way back from here on.
func (t *takeover) commit(p *proxy.Server, log *slog.Logger) (o outcome) {
	t.committed = true
	if t.in.Old >= 0 {
		courier.CloseFD(t.in.Old)
	}
	courier.SetCloseOnExec(t.in.Snapshot)
	from := &t.summary.Process
	began := courier.Clock()
	done, err := p.Restore(t.snapshot.Data, began-from.Clock, func(fd int) int { return fd }, t.snapshot.Free)
	_ = t.snapshot.Close() // it was only read
	now := courier.Clock()
	o = outcome{
		result: courier.OK, took: now - from.Began, sessions: done.Sessions, lost: int(from.Lost) + done.Failed,
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
		"lost_sessions", o.lost, "cut_clients", from.Cut, "cut_requests", from.Passing,
		"leave", round(from.Leaving), "freeze", round(from.Freezing), "pass", round(began - from.Clock), "restore", round(now - began),
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

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// outcome is how a handover ended.
type outcome struct {
	result, reason string
	took           time.Duration
	sessions, lost int
}

// status returns the outcome for the status report.
func (o outcome) status(at time.Time, count int64) status.Handover {
	return status.Handover{
		Count: count, Time: new(at.UTC()), Result: o.result, Reason: o.reason, DurationSeconds: o.took.Seconds(),
		Sessions: o.sessions, LostSessions: o.lost,
	}
}

// maxReason bounds a reason, which becomes an environment variable and a field of the status report.
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
