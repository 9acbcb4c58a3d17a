package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrNotRecovered is wrapped if the client was not recovered as it should be.
var ErrNotRecovered = errors.New("demo: not recovered")

// Options of Run.
type Options struct {
	// StartProxy starts holdfast on listenAddr, in front of upstreamURL, and
	// returns the address it listens on. Stop must wait until it has stopped.
	StartProxy func(ctx context.Context, listenAddr, upstreamURL string) (addr string, stop func(), err error)
	// ListenAddr is where holdfast listens, and LegacyAddr where the legacy server
	// listens. Default "127.0.0.1:0", a free port.
	ListenAddr, LegacyAddr string
	// Away is how long the client is without a connection. Default 2s.
	Away time.Duration
	// Pause is the time between messages while it is connected. Default 300ms.
	Pause time.Duration
	// Restart restarts holdfast and returns when it serves again. Nil leaves that part of the story
	// out.
	Restart func(ctx context.Context) error
	// Where names the replica of holdfast that the latest connection went to. Nil means that there
	// is only one.
	Where func() string
	// ExitWhenDone makes Run return after the summary.
	ExitWhenDone bool
}

const (
	before = 3 // messages before the cut
	missed = 5 // messages while the client is away
)

func (o Options) withDefaults() Options {
	if o.ListenAddr == "" {
		o.ListenAddr = "127.0.0.1:0"
	}
	if o.LegacyAddr == "" {
		o.LegacyAddr = "127.0.0.1:0"
	}
	if o.Away == 0 {
		o.Away = 2 * time.Second
	}
	if o.Pause == 0 {
		o.Pause = 300 * time.Millisecond
	}
	return o
}

// Run tells its story on out, and then serves until ctx is done. It returns nil
// if the client was recovered, and an error that wraps ErrNotRecovered if it was
// not.
func Run(ctx context.Context, out io.Writer, opts Options) error {
	opts = opts.withDefaults()
	srv, err := startBackend(opts.LegacyAddr)
	if err != nil {
		return err
	}
	defer srv.stop()
	proxyAddr, stopProxy, err := opts.StartProxy(ctx, opts.ListenAddr, srv.url())
	if err != nil {
		return fmt.Errorf("demo: starting holdfast: %w", err)
	}
	defer stopProxy()

	n := newNarrator(out)
	n.opening(srv.addr, proxyAddr)

	// Meanwhile the client without holdfast goes through the same, without
	// narration.
	type result struct {
		outcome
		err error
	}
	direct := make(chan result, 1) // lets the goroutine end even without a receiver
	go func() {
		o, err := trial{srv, srv.url(), "direct", opts, nil}.run(ctx)
		direct <- result{o, err}
	}()
	held, err := trial{srv, "http://" + proxyAddr, "holdfast", opts, n}.run(ctx)
	contrast := <-direct
	if err = errors.Join(err, contrast.err); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("demo: %w", err)
	}
	n.contrast(contrast.outcome)
	n.summary(held, contrast.outcome)
	if err := held.check(); err != nil {
		return err
	}
	if opts.Restart != nil {
		n.restarting()
		err := trial{srv, "http://" + proxyAddr, "restarted", opts, n}.restart(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			return fmt.Errorf("demo: %w", err)
		}
	}
	if opts.ExitWhenDone {
		return nil
	}
	n.invitation(srv.addr, proxyAddr)
	srv.tick(ctx)
	return nil
}
