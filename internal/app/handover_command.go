package app

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/holdfast/holdfast/internal/admin/status"
	"github.com/holdfast/holdfast/internal/courier"
	"github.com/holdfast/holdfast/internal/handover"
	"github.com/holdfast/holdfast/internal/health"
)

// handoverCommand asks a running holdfast to hand over, and waits for the outcome. A holdfast that
// hands over calls it too, with "formats" and "verify".
func handoverCommand(ctx context.Context, args, environ []string, stdout io.Writer) error {
	if len(args) == 1 {
		switch args[0] {
		case "formats":
			return json.NewEncoder(stdout).Encode(formats{handover.Oldest, handover.Format})
		case "verify":
			return verifyInherited(stdout)
		}
	}
	target, timeout, err := health.Parse("handover", "/api/status", handoverTimeout, args, environ)
	if errors.Is(err, flag.ErrHelp) {
		return handoverUsage(stdout)
	} else if err != nil {
		return err
	}
	if !courier.Supported {
		return errors.New("a handover needs Linux")
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return requestHandover(ctx, target, stdout)
}

// handoverTimeout is how long the command waits by default: longer than the default of
// handover.timeout, and the time to restore.
const handoverTimeout = 30 * time.Second

// snapshotFD is where verifyInherited finds the snapshot.
const snapshotFD = 3

// verifyInherited reads a snapshot without any effect.
func verifyInherited(stdout io.Writer) error {
	s, err := courier.OpenSnapshot(snapshotFD)
	if err != nil {
		return err
	}
	sum, err := handover.Verify(s.Data)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%d links, %d sessions\n", sum.Counts.Links, sum.Counts.Sessions)
	return err
}

// requestHandover sends the signal, and waits for the outcome in the status report.
func requestHandover(ctx context.Context, target health.Target, stdout io.Writer) error {
	before, err := askStatus(ctx, target)
	if err != nil {
		return err
	}
	pid := before.Holdfast.PID
	if before.Holdfast.PIDNamespace != courier.PIDNamespace() || pid <= 0 {
		return fmt.Errorf("process %d of %s is not visible from here: run the command in its container", pid, target)
	}
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Signal(courier.Signal)
	}
	if err != nil {
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d has not reported an outcome in time: see its log", pid)
		case <-ticker.C:
		}
		now, err := askStatus(ctx, target)
		if err != nil || now.Handover.Count == before.Handover.Count {
			continue // it may be between two programs
		}
		return reportHandover(now, stdout)
	}
}

func askStatus(ctx context.Context, target health.Target) (r status.Report, err error) {
	body, err := target.Ask(ctx)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return r, fmt.Errorf("%s does not answer with holdfast's status: %w", target, err)
	}
	return r, nil
}

func reportHandover(r status.Report, stdout io.Writer) error {
	h := r.Handover
	if h.Result != courier.OK {
		return fmt.Errorf("handover %s: %s", h.Result, h.Reason)
	}
	sessions := "sessions"
	if h.Sessions == 1 {
		sessions = "session"
	}
	_, err := fmt.Fprintf(stdout, "ok: holdfast %s serves %d %s, lost %d, %.2f s\n",
		r.Holdfast.Version, h.Sessions, sessions, h.LostSessions, h.DurationSeconds)
	return err
}

func handoverUsage(w io.Writer) error {
	_, err := io.WriteString(w, `holdfast handover restarts a running holdfast without losing sessions.

Usage:

  holdfast handover
  holdfast handover -config holdfast.yaml
  holdfast handover -url http://127.0.0.1:9090/api/status

The binary on disk takes over in the same process, and reads the configuration
again. Clients are closed, and recover within about a second. The command sends
SIGUSR2 to the process that the admin listener names, and waits for the outcome.
Run it on the same machine, or in the same container. Linux only.

  -config FILE        the configuration of the running process
  -admin ADDR         its -admin
  -url URL            ask there instead
  -timeout DURATION   how long to wait for the outcome (default 30s)

Exit status: 0 done, 1 not done (the old process continues, and the reason is
shown) or no answer, 2 bad usage or settings.
`)
	return err
}
