package app

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast/holdfast/internal/buildinfo"
	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/courier"
	"github.com/holdfast/holdfast/internal/doctor"
	"github.com/holdfast/holdfast/internal/logging"
	"github.com/holdfast/holdfast/internal/probe"
	"github.com/holdfast/holdfast/internal/upstream"
)

// exitStatus is an error of a subcommand that has written a report.
type exitStatus interface {
	error
	Status() int
}

// Main runs the command with the process's arguments, environment and standard streams, and returns
// its exit status: 0 on success, 2 for a usage or configuration error, 1 for any other error.
// Subcommands with a report have exit statuses of their own. version is the version of the release,
// or "dev".
func Main(version string) int {
	signal.Ignore(syscall.SIGPIPE) // a closed log pipe must not end the process
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process immediately
	inherited, environ := courier.Inherit(os.Environ())
	stored, environ := courier.TakeStored(environ)
	c := command{
		version: version, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, stored: stored,
		takeover: newTakeover(inherited, stored, environ),
	}
	err := c.takeover.back(ctx, c.run(ctx, os.Args[1:], environ))
	var reported exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &reported): // its report has said why
		return reported.Status()
	case errors.Is(err, config.ErrInvalid), errors.Is(err, probe.ErrUsage), errors.Is(err, doctor.ErrUsage):
		fmt.Fprintln(os.Stderr, "holdfast:", err)
		return 2
	default:
		fmt.Fprintln(os.Stderr, "holdfast:", err)
		return 1
	}
}

// command is one invocation of holdfast.
type command struct {
	version        string
	stdin          io.Reader
	stdout, stderr io.Writer
	takeover       *takeover       // from the process before; usually nil
	stored         *courier.Stored // from the service manager; usually nil
	restartDemo    bool            // the demo restarts its holdfast
	demoReplicas   int             // how many holdfasts the demo has
}

// run does what the arguments ask for. A proxy runs until ctx is done, then drains, and run returns
// nil. Errors that wrap config.ErrInvalid, probe.ErrUsage or doctor.ErrUsage are the user's to fix.
func (c command) run(ctx context.Context, args, environ []string) error {
	if len(args) > 0 {
		if subcommand := subcommands[args[0]]; subcommand != nil {
			return subcommand(ctx, args[1:], environ, c.stdout)
		}
	}
	if err := unknownCommand(args); err != nil {
		return err
	}
	line, err := config.ParseArgs(args)
	if errors.Is(err, flag.ErrHelp) || len(args) == 1 && args[0] == "help" {
		config.Usage(c.stdout)
		return nil
	} else if err != nil {
		return err
	}
	if line.Version {
		_, err := fmt.Fprintln(c.stdout, "holdfast", buildinfo.Read())
		return err
	}
	if line.StopWithStdin {
		var stop context.CancelFunc
		ctx, stop = context.WithCancel(ctx)
		defer stop()
		go stopWith(c.stdin, stop) // ends with standard input or the process
	}
	if c.takeover == nil && c.stored != nil {
		c.stored.Discard() // a process died before it had stored everything
	}
	if c.takeover != nil {
		err := c.takeover.read()
		if err != nil && c.takeover.canGoBack() {
			return err
		} else if err != nil { // serve clients at least
			// There is no log yet.
			_, _ = fmt.Fprintln(c.stderr, "holdfast: handover: the sessions are lost:", err)
			c.takeover.abandon()
			c.takeover = nil
		}
	}
	load := func() (config.Config, config.Sources, error) { return config.Load(line, environ) }
	cfg, sources, err := load()
	if c.takeover.restored() { // by a program that had other settings
		cfg, err = c.takeover.config()
	}
	if err != nil {
		return err
	}
	switch {
	case line.Check:
		return c.check(ctx, cfg, sources)
	case line.Demo:
		c.restartDemo, c.demoReplicas = line.Handover, line.Replicas
		return c.runDemo(ctx, cfg, sources)
	default:
		return c.runProxy(ctx, cfg, sources, load, environ)
	}
}

// check prints the settings, and how other replicas and several servers answer. One that does not
// answer is not a mistake in the settings.
func (c command) check(ctx context.Context, cfg config.Config, sources config.Sources) error {
	if _, err := c.stdout.Write(cfg.Redacted().YAML(sources)); err != nil {
		return err
	}
	if err := c.checkPeers(ctx, cfg.Cluster, sources); err != nil {
		return err
	}
	results, lookupErr := upstream.Check(ctx, cfg)
	if len(results) == 0 && lookupErr == nil {
		return nil
	}
	var b strings.Builder
	b.WriteString("\n# Servers of the upstream, asked just now:\n")
	for _, r := range results {
		answer := fmt.Sprintf("answers (%v)", r.Took.Round(time.Millisecond))
		if r.Err != nil {
			answer = oneLine(r.Err.Error())
		}
		fmt.Fprintf(&b, "#   %s: %s\n", r.URL, answer)
	}
	if lookupErr != nil {
		fmt.Fprintf(&b, "#   %s\n", oneLine(lookupErr.Error()))
	}
	_, err := io.WriteString(c.stdout, b.String())
	return err
}

// stopWith calls stop when r ends. If r is a pipe, it ends when the parent process at the other end
// dies.
func stopWith(r io.Reader, stop func()) {
	defer stop()
	_, _ = io.Copy(io.Discard, r) // an error is an end too
}

// runProxy serves until ctx is done, then drains. load reads the configuration again, for SIGHUP.
func (c command) runProxy(ctx context.Context, cfg config.Config, sources config.Sources, load loader, environ []string) error {
	hangups := make(chan os.Signal, 1) // one pending reload covers all signals before it
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	level := new(slog.LevelVar)
	least, err := logging.ParseLevel(cfg.Log.Level)
	if err != nil {
		return err
	}
	level.Set(least)
	log, err := logging.New(c.stderr, level, cfg.Log.Format)
	if err != nil {
		return err
	}
	in, err := newInstance(c.version, cfg, sources, log)
	if err != nil {
		return err
	}
	in.handover = newHandoverer(in, environ, hangups)
	if c.stored != nil {
		in.sockets.inherited = c.stored.Sockets
	}
	if c.takeover != nil && c.takeover.in != nil {
		in.sockets.inherit(c.takeover.summary.Listeners)
	}
	in.manager = courier.FindManager(environ)
	reload := &reloader{load: load, log: log, level: level, proxy: in.proxy, metrics: in.metrics}
	return in.run(ctx, reload, hangups, c.takeover)
}
