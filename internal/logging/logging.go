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

// ParseLevel gives the level of this name: debug, info, warn or error. Errors
// wrap ErrOption.
func ParseLevel(name string) (slog.Level, error) {
	level, ok := levels[name]
	if !ok {
		return 0, fmt.Errorf("%w: level %q is none of debug, info, warn, error", ErrOption, name)
	}
	return level, nil
}

// New returns a logger that writes lines of the level, which may change, and
// above to w in the format (text, json). Each line is one call of
// w.Write, never two at a time, from a goroutine that ends when there is
// nothing left to write. A line has been written when the logger's method
// returns, unless w fails or is blocked. Errors wrap ErrOption.
func New(w io.Writer, level slog.Leveler, format string) (*slog.Logger, error) {
	options := &slog.HandlerOptions{Level: level}
	var newHandler func(io.Writer) slog.Handler
	switch format {
	case "text":
		newHandler = func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, options) }
	case "json":
		newHandler = func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, options) }
	default:
		return nil, fmt.Errorf("%w: format %q is neither text nor json", ErrOption, format)
	}
	lost := func(lines uint64) []byte {
		var line bytes.Buffer
		slog.New(newHandler(&line)).Error("log lines lost", "lines", lines) // Error: shown at every level
		return line.Bytes()
	}
	return slog.New(newHandler(newWriter(w, lost))), nil
}
