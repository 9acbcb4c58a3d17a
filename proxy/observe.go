package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/admin/status"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/limit"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/metrics"
	"github.com/holdfast/holdfast/session"
)

// reporter reports events in three places: metrics, log and status page. Each kind of event has one
// function that reports to all three, so that all use the same word for the reason. It is safe for
// concurrent use. With observer it is the session.Observer.
type reporter struct {
	log        *slog.Logger
	limitedLog *limit.Logger
	metrics    *metrics.Metrics
	recorder   *status.Recorder

	rawLogged            sync.Once
	unableLogged         sync.Map  // names of client libraries, see handshaker.canResume
	upstreamRecoversOnce sync.Once // logs that the server recovers connections itself
}

// recovered reports that a client got its session back.
func (r *reporter) recovered(client uint64, namespace string, why reason.Reason, got session.Resumption) {
	r.metrics.Recovered(why)
	r.metrics.DisconnectionDuration.Observe(got.Away.Seconds())
	r.recorder.Recovered(status.Recovery{
		Client: client, Namespace: namespace, Reason: why, Missed: got.Missed, AwaySeconds: got.Away.Seconds(),
	})
	r.log.Info("recovered", "client", client, "namespace", namespace, "reason", string(why),
		"missed", got.Missed, "away", got.Away.Round(time.Millisecond))
}

// notRecovered reports that a client presented a pid and did not get its session back.
func (r *reporter) notRecovered(client uint64, addr netip.Addr, namespace string, why reason.Reason) {
	r.metrics.RecoveryFailed(why)
	r.recorder.Failed(status.Failure{Client: client, Namespace: namespace, Reason: why})
	attrs := []any{"client", client, "namespace", namespace, "reason", string(why)}
	if why == reason.Limit { // a client can cause this at any rate
		r.limitedLog.Log(slog.LevelWarn, "", "not recovered", append(attrs, "address", addr.String())...)
		return
	}
	r.log.Info("not recovered", attrs...)
}

// dialled reports how a handshake with the upstream ended.
func (r *reporter) dialled(err error, took time.Duration) {
	var rejected *engineio.RejectedError
	switch {
	case err == nil:
		r.metrics.Dials.OK.Inc()
		r.recorder.Dialled(status.DialOK, nil)
	case errors.As(err, &rejected):
		r.metrics.Dials.Rejected.Inc()
		r.recorder.Dialled(status.DialRejected, nil)
	case errors.Is(err, context.DeadlineExceeded):
		r.metrics.Dials.Timeout.Inc()
		r.recorder.Dialled(status.DialTimeout, err)
		return
	default:
		r.metrics.Dials.Error.Inc()
		if !errors.Is(err, context.Canceled) { // a client that is gone is not the upstream's fault
			r.recorder.Dialled(status.DialError, err)
		}
		return
	}
	r.metrics.DialDuration.Observe(took.Seconds())
}

// upgradeFailed reports why a link stays with polling.
func (r *reporter) upgradeFailed(err error) {
	r.limitedLog.Log(slog.LevelWarn, "", "a link stays with long-polling: its upgrade to WebSocket failed", "error", err)
}

// Parked implements session.Observer.
func (r *reporter) Parked(s *session.Session, why reason.Reason) {
	r.metrics.Parked(why)
	r.log.Info("session parked", "namespace", s.Namespace(), "reason", why)
}

// Closed implements session.Observer.
func (r *reporter) Closed(s *session.Session, why reason.Reason, was session.State, buffered int) {
	r.metrics.SessionClosed(why)
	level := slog.LevelDebug
	if was == session.Parked || why == reason.UpstreamLost {
		level = slog.LevelInfo
	}
	r.log.Log(context.Background(), level, "session closed",
		"namespace", s.Namespace(), "reason", string(why), "was", was.String(), "packets", buffered)
}

// Poisoned implements session.Observer.
func (r *reporter) Poisoned(s *session.Session, p *buffer.Entry) {
	poison := status.Poison{Namespace: s.Namespace(), Event: shownEvent(p.Data()), Bytes: len(p.Data())}
	for _, a := range p.Attachments() {
		poison.Bytes += len(a)
	}
	r.metrics.PoisonPackets.Inc()
	r.recorder.Poisoned(poison)
	r.limitedLog.Log(slog.LevelWarn, "", "packet left out: its client cannot decode it, and closed its connection over it",
		"namespace", status.ShortNamespace(poison.Namespace), "event", poison.Event, "bytes", poison.Bytes,
		"attachments", len(p.Attachments()))
}

// shownEvent returns a packet's event name, shortened for logs and the status page. For other
// packets it returns a description in parentheses.
func shownEvent(packet []byte) string {
	h, err := socketio.ParseHeader(packet)
	switch {
	case err != nil:
		return "(unknown packet)"
	case h.IsAck():
		return "(acknowledgement)"
	case !h.IsEvent():
		return "(no event)"
	}
	name, ok := socketio.EventName(packet[h.Data:])
	if !ok {
		return "(no name)"
	}
	return status.ShortEvent(string(name))
}

// Dropped implements session.Observer.
func (r *reporter) Dropped(why session.Retention, events int) {
	switch why {
	case session.DropVolatile:
		r.metrics.EventsDropped.Volatile.Add(float64(events))
	case session.KeepLatest:
		r.metrics.EventsDropped.Superseded.Add(float64(events))
	case session.Keep: // such events are never dropped
	}
}

// refused counts and logs a connection or request that exceeded a limit.
func (r *reporter) refused(limit metrics.RefusalLimit, addr netip.Addr) {
	r.metrics.Refused(limit)
	r.limitedLog.Log(slog.LevelWarn, string(limit), "limit reached",
		"limit", string(limit), "key", limit.Key(), "address", addr.String())
}

func (r *reporter) outOfDescriptors(err error) {
	r.limitedLog.Log(slog.LevelWarn, "", "out of file descriptors: raise the limit of open files (ulimit -n)", "error", err)
}
