package peerwire

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// A body that a replica forwards counts as a whole, or not at all.
func TestBodyCountsAsAWhole(t *testing.T) {
	for name, tt := range map[string]struct {
		sent      string
		announced int64
		want      error
	}{
		"as announced":       {"abc", 3, nil},
		"empty":              {"", 0, nil},
		"no length":          {"abc", -1, nil},
		"too short":          {"ab", 3, io.ErrUnexpectedEOF},
		"nothing came":       {"", 3, io.ErrUnexpectedEOF},
		"too long":           {"abcd", 3, io.ErrUnexpectedEOF},
		"more than no bytes": {"a", 0, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(tt.sent), iotest.OneByteReader(strings.NewReader(tt.sent)), iotest.DataErrReader(strings.NewReader(tt.sent))} {
				got, err := io.ReadAll(&body{r, tt.announced})
				if !errors.Is(err, tt.want) || err == nil && string(got) != tt.sent {
					t.Errorf("got %q, %v; want error %v", got, err, tt.want)
				}
			}
		})
	}
}
