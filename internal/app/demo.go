package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/demo"
	"github.com/holdfast/holdfast/internal/logging"
	"github.com/holdfast/holdfast/metrics"
	"github.com/holdfast/holdfast/proxy"
)

// demoListen is where the demonstration's proxy listens unless told otherwise.
const demoListen = "127.0.0.1:8080"

// runDemo runs the demonstration until ctx is done. Of the configuration only listen and log count, where they
// were set; all else is at its default.
func runDemo(ctx context.Context, cfg config.Config, sources config.Sources, stdout, stderr io.Writer) error {
	level := "warn" // the story is not to be interrupted
	if sources["log.level"] != "" {
		level = cfg.Log.Level
	}
	least, err := logging.ParseLevel(level)
	if err != nil {
		return err
	}
	log, err := logging.New(stderr, least, cfg.Log.Format)
	if err != nil {
		return err
	}
	ln, err := listenDemo(cfg, sources, stdout)
	if err != nil {
		return err
	}
	defer ln.Close()
	start := func(ctx context.Context, _, upstreamURL string) (addr string, stop func(), err error) {
		cfg := config.Default()
		cfg.Upstream.URL = upstreamURL
		cfg.Shutdown.DrainTimeout = 0
		p, err := proxy.New(cfg, log, metrics.New(prometheus.NewRegistry()))
		if err != nil {
			return "", nil, err
		}
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() { // ends with stop or ctx
			defer close(done)
			if err := serveClients(ctx, log, ln, p); err != nil {
				log.Error("the demonstration's proxy failed", "error", err)
			}
		}()
		return reachable(ln.Addr()), func() { cancel(); <-done }, nil
	}
	err = demo.Run(ctx, stdout, demo.Options{StartProxy: start})
	if errors.Is(err, context.Canceled) {
		return nil // stopped in the middle of the story
	}
	return err
}

// listenDemo listens where -listen says, else on demoListen or, if that is taken, on a free port.
func listenDemo(cfg config.Config, sources config.Sources, stdout io.Writer) (net.Listener, error) {
	if sources["listen"] != "" {
		network, address := config.SplitListen(cfg.Listen)
		if network != "tcp" {
			return nil, sources.Invalid("listen", cfg.Listen, "host:port or :port, for the demonstration")
		}
		ln, err := net.Listen(network, address)
		if err != nil {
			return nil, sources.Invalid("listen", err.Error(), "an address of this machine that is free")
		}
		return ln, nil
	}
	ln, err := net.Listen("tcp", demoListen)
	if errors.Is(err, syscall.EADDRINUSE) {
		_, err := fmt.Fprintf(stdout, "%s is taken, so holdfast listens on a free port. (-listen chooses one.)\n\n", demoListen)
		if err != nil {
			return nil, err
		}
		return net.Listen("tcp", "127.0.0.1:0")
	}
	return ln, err
}

// reachable is an address at which a client on this machine finds a listener.
func reachable(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return addr.String()
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(tcp.Port))
}
