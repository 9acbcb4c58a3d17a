package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrNotRecovered is wrapped when the client was not recovered as it should.
var ErrNotRecovered = errors.New("demo: not recovered")

// Options of Run.
type Options struct {
	// StartProxy starts holdfast on listenAddr, in front of upstreamURL, and
	// returns the address it listens on. Stop must wait for its end.
	StartProxy func(ctx context.Context, listenAddr, upstreamURL string) (addr string, stop func(), err error)
	// ListenAddr is where holdfast listens, LegacyAddr where the legacy server
	// does. Default "127.0.0.1:0", a port that is free.
	ListenAddr, LegacyAddr string
	// Away is how long the client is without a connection. Default 2s.
	Away time.Duration
	// Pause is the time between messages while it has one. Default 300ms.
	Pause time.Duration
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

// Run tells its story on out, and then serves until ctx is done. It returns
// nil when it was stopped after the story came to its good end; an error that
// wraps ErrNotRecovered when it did not.
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

	// The client without holdfast goes through the same at the same time, in
	// silence.
	type result struct {
		outcome
		err error
	}
	direct := make(chan result, 1) // its goroutine ends even if nobody looks
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
	if opts.ExitWhenDone {
		return nil
	}
	n.invitation(srv.addr, proxyAddr)
	srv.tick(ctx)
	return nil
}
