package logging

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// ErrOption is wrapped by New for a level or format that does not exist.
var ErrOption = errors.New("logging: bad option")

var levels = map[string]slog.Level{
	"debug": slog.LevelDebug,
	"info":  slog.LevelInfo,
	"warn":  slog.LevelWarn,
	"error": slog.LevelError,
}

// ParseLevel returns the level with this name: debug, info, warn or error.
// Errors wrap ErrOption.
func ParseLevel(name string) (slog.Level, error) {
	level, ok := levels[name]
	if !ok {
		return 0, fmt.Errorf("%w: level %q is not debug, info, warn or error", ErrOption, name)
	}
	return level, nil
}

// New returns a logger that writes lines at level, which may change, or above to
// w, in the format text or json. Each line is one call of w.Write, never
// concurrent with another, from a goroutine that ends when nothing is left to
// write. When a method of the logger returns, its line has been written, unless w
// fails or blocks. Errors wrap ErrOption.
func New(w io.Writer, level slog.Leveler, format string) (*slog.Logger, error) {
	options := &slog.HandlerOptions{Level: level}
	var newHandler func(io.Writer) slog.Handler
	switch format {
	case "text":
		newHandler = func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, options) }
	case "json":
		newHandler = func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, options) }
	default:
		return nil, fmt.Errorf("%w: format %q is not text or json", ErrOption, format)
	}
	lost := func(lines uint64) []byte {
		var line bytes.Buffer
		// Error: shown at every level.
		slog.New(newHandler(&line)).Error("log lines lost", "lines", lines)
		return line.Bytes()
	}
	return slog.New(newHandler(newWriter(w, lost))), nil
}
