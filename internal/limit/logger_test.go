package limit

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

func TestLoggerSpacesLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLogger(slog.New(slog.DiscardHandler))
		due := func(kind string, wantTimes int) {
			t.Helper()
			if times, ok := l.due(kind); times != wantTimes || ok != (wantTimes > 0) {
				t.Errorf("%s: due(%q) = %d, %v; want %d", time.Now(), kind, times, ok, wantTimes)
			}
		}
		due("a", 1)
		due("a", 0)
		due("b", 1)
		time.Sleep(LogInterval - time.Nanosecond)
		due("a", 0)
		time.Sleep(time.Nanosecond)
		due("a", 3)
		due("a", 0)
	})
}
