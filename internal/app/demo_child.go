package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/holdfast/holdfast/internal/courier"
	"github.com/holdfast/holdfast/internal/demo"
	"github.com/holdfast/holdfast/internal/health"
)

// demoChild is a holdfast in its own process, so that the demo can restart it.
type demoChild struct {
	ln    net.Listener // reserves the address until the child listens
	level string
	log   io.Writer
	admin string // the address of its admin listener
}

// startTimeout is how long the child may take to be ready, or to be restarted.
const startTimeout = 10 * time.Second

// options returns the demo's options with this holdfast.
func (d *demoChild) options() demo.Options {
	return demo.Options{StartProxy: d.start, Restart: d.restart}
}

// start implements demo.Options.StartProxy.
func (d *demoChild) start(ctx context.Context, _, upstreamURL string) (addr string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "holdfast-demo-")
	if err != nil {
		return "", nil, err
	}
	d.admin = "unix://" + filepath.Join(dir, "admin.sock")
	listen := d.ln.Addr().String()
	d.ln.Close()
	self := courier.Self()
	cmd := exec.Command(self.Path, "-listen", listen, "-upstream", upstreamURL, "-admin", d.admin, "-log-level", d.level, "-stop-with-stdin")
	cmd.Env = append(os.Environ(), "HOLDFAST_SHUTDOWN_DRAIN_TIMEOUT=0", "HOLDFAST_HANDOVER_MODE=exec")
	cmd.Stderr = d.log
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	stop = func() {
		stdin.Close()
		_ = cmd.Wait()        // how it ends does not matter
		_ = os.RemoveAll(dir) // a temporary directory
	}
	if err := d.await(ctx); err != nil {
		stop()
		return "", nil, err
	}
	return reachable(d.ln.Addr()), stop, nil
}

// await waits until the child is ready.
func (d *demoChild) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	target, _, err := health.Parse("demo", "/readyz", startTimeout, []string{"-admin", d.admin}, nil)
	if err != nil {
		return err
	}
	for {
		_, err := target.Ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("holdfast is not ready: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// restart implements demo.Options.Restart.
func (d *demoChild) restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	target, _, err := health.Parse("demo", "/api/status", startTimeout, []string{"-admin", d.admin}, nil)
	if err != nil {
		return err
	}
	return requestHandover(ctx, target, io.Discard)
}
