package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/handover"
)

// formats is what `holdfast handover formats` prints: the formats of a snapshot that a program
// reads.
type formats struct {
	Oldest int `json:"oldest"`
	Newest int `json:"newest"`
}

// preflight checks that the program on disk can probably take over. It changes nothing.
func (h *handoverer) preflight(ctx context.Context, cfg config.Handover) error {
	if err := h.allowed(cfg); err != nil {
		return err
	}
	out, err := h.child(ctx, nil, "handover", "formats")
	if err != nil {
		return err
	}
	var f formats
	if err := json.Unmarshal(out, &f); err != nil {
		return fmt.Errorf("%s cannot take over: it does not report which formats it reads", h.program.Path)
	}
	if f.Oldest > handover.Format || f.Newest < handover.LeastReader {
		return fmt.Errorf("%s reads formats %d to %d, and this process writes %d", h.program.Path, f.Oldest, f.Newest, handover.Format)
	}
	if _, err := h.child(ctx, nil, append(h.program.Args[1:len(h.program.Args):len(h.program.Args)], "-check")...); err != nil {
		return err
	}
	return h.checkMemory()
}

// verify has the next program read the whole snapshot in its own process.
func (h *handoverer) verify(ctx context.Context, file *os.File) error {
	_, err := h.child(ctx, file, "handover", "verify")
	return err
}

// maxChildOutput bounds what is kept of a child's output.
const maxChildOutput = 64 << 10

// child runs the program on disk, with file, if it is not nil, as its descriptor 3. The error has
// the program's last line.
func (h *handoverer) child(ctx context.Context, file *os.File, args ...string) (stdout []byte, err error) {
	cmd := exec.CommandContext(ctx, h.program.Path, args...)
	cmd.Env = h.environ
	var out, failure limited
	cmd.Stdout, cmd.Stderr = &out, &failure
	cmd.WaitDelay = childWaitDelay
	if file != nil {
		cmd.ExtraFiles = []*os.File{file}
	}
	err = cmd.Run()
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // it has succeeded, and a descendant has its output
		return out.Bytes(), nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s %s: %w", h.program.Path, last(args), h.interrupted(ctx))
	}
	text := strings.TrimSpace(failure.String())
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && text != "" {
		return nil, fmt.Errorf("%s %s: %s (%w)", h.program.Path, last(args), text, exit)
	}
	return nil, fmt.Errorf("%s %s: %w", h.program.Path, last(args), err)
}

func last(args []string) string { return args[len(args)-1] }

// limited is a Buffer that keeps at most maxChildOutput.
type limited struct{ bytes.Buffer }

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	l.Buffer.Write(p[:min(len(p), maxChildOutput-l.Len())])
	return len(p), nil
}
