package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/courier"
	"github.com/holdfast/holdfast/internal/demo"
	"github.com/holdfast/holdfast/internal/logging"
	"github.com/holdfast/holdfast/internal/neterr"
)

// demoListen is where the demo's proxy listens by default.
const demoListen = "127.0.0.1:8080"

// runDemo runs the demo until ctx is done. It uses listen and log from the configuration if they
// are set, and the defaults for everything else.
func (c command) runDemo(ctx context.Context, cfg config.Config, sources config.Sources) error {
	level := "warn" // so that the log does not interrupt the story
	if sources["log.level"] != "" {
		level = cfg.Log.Level
	}
	least, err := logging.ParseLevel(level)
	if err != nil {
		return err
	}
	log, err := logging.New(c.stderr, least, cfg.Log.Format)
	if err != nil {
		return err
	}
	ln, err := listenDemo(cfg, sources, c.stdout)
	if err != nil {
		return err
	}
	defer ln.Close()
	if c.restartDemo {
		if !courier.Supported {
			return errors.New("-demo -handover needs Linux")
		}
		child := &demoChild{ln: ln, level: level, log: c.stderr}
		return ignoreCanceled(demo.Run(ctx, c.stdout, child.options()))
	}
	if c.demoReplicas > 1 {
		d := &demoReplicas{version: c.version, log: log, n: c.demoReplicas, ln: ln}
		return ignoreCanceled(demo.Run(ctx, c.stdout, demo.Options{StartProxy: d.start, Where: d.where}))
	}
	start := func(ctx context.Context, _, upstreamURL string) (addr string, stop func(), err error) {
		cfg := config.Default()
		cfg.Upstream.URL = config.URLs{upstreamURL}
		cfg.Shutdown.DrainTimeout = 0
		in, err := newInstance(c.version, cfg, nil, log)
		if err != nil {
			return "", nil, err
		}
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() { // ends with stop or ctx
			defer close(done)
			if err := in.serveClients(ctx, ln); err != nil {
				log.Error("the demo's proxy failed", "error", err)
			}
		}()
		return reachable(ln.Addr()), func() { cancel(); <-done }, nil
	}
	return ignoreCanceled(demo.Run(ctx, c.stdout, demo.Options{StartProxy: start}))
}

// ignoreCanceled returns nil if the demo was stopped in the middle of the story.
func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// listenDemo listens on the configured address if there is one. Otherwise it listens on demoListen
// or, if that is in use, on a free port.
func listenDemo(cfg config.Config, sources config.Sources, stdout io.Writer) (net.Listener, error) {
	if sources["listen"] != "" {
		network, address := config.SplitListen(cfg.Listen)
		if network != "tcp" {
			return nil, sources.Invalid("listen", cfg.Listen, "host:port or :port for the demo")
		}
		ln, err := net.Listen(network, address)
		if err != nil {
			return nil, sources.Invalid("listen", err.Error(), "a free address of this machine")
		}
		return ln, nil
	}
	ln, err := net.Listen("tcp", demoListen)
	if neterr.IsAddrInUse(err) {
		_, err := fmt.Fprintf(stdout, "%s is in use, so holdfast listens on a free port. (-listen sets one.)\n\n", demoListen)
		if err != nil {
			return nil, err
		}
		return net.Listen("tcp", "127.0.0.1:0")
	}
	return ln, err
}

// reachable is the address at which a client on this machine reaches a listener.
func reachable(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return addr.String()
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(tcp.Port))
}
