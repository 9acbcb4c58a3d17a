package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/internal/steady"
)

func TestMain(m *testing.M) { steady.VerifyTestMain(m) }

// Loggers of tests run in bubbles: on a machine that stalls, a line may take longer than a logger
// waits for it.

func TestNew(t *testing.T) {
	tests := []struct {
		level, format string
		want          string // a line of each level, without its time
	}{
		{"debug", "text", "level=DEBUG msg=a k=1\nlevel=INFO msg=b\nlevel=WARN msg=c\nlevel=ERROR msg=d\n"},
		{"info", "text", "level=INFO msg=b\nlevel=WARN msg=c\nlevel=ERROR msg=d\n"},
		{"warn", "text", "level=WARN msg=c\nlevel=ERROR msg=d\n"},
		{"error", "json", `{"level":"ERROR","msg":"d"}` + "\n"},
	}
	for _, tt := range tests {
		t.Run(tt.level+" "+tt.format, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var b bytes.Buffer // no lock: each line is written when the method returns
				level, err := ParseLevel(tt.level)
				if err != nil {
					t.Fatal(err)
				}
				log, err := New(&b, level, tt.format)
				if err != nil {
					t.Fatal(err)
				}
				log.Debug("a", "k", 1)
				log.Info("b")
				log.Warn("c")
				log.Error("d")
				got := regexp.MustCompile(`(?m)^time=\S+ |"time":"[^"]+",`).ReplaceAllString(b.String(), "")
				if got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			})
		})
	}
}

func TestBadOptions(t *testing.T) {
	for _, name := range []string{"loud", "INFO", ""} {
		want := fmt.Sprintf("logging: bad option: level %q is not debug, info, warn or error", name)
		if _, err := ParseLevel(name); !errors.Is(err, ErrOption) || err.Error() != want {
			t.Errorf("ParseLevel(%q): %v; want %s", name, err, want)
		}
	}
	const want = `logging: bad option: format "xml" is not text or json`
	if log, err := New(io.Discard, slog.LevelInfo, "xml"); !errors.Is(err, ErrOption) || err.Error() != want || log != nil {
		t.Errorf("got %v, %v; want %s", log, err, want)
	}
}

func TestLevelChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		level := new(slog.LevelVar)
		log, err := New(&b, level, "text")
		if err != nil {
			t.Fatal(err)
		}
		log.Debug("one")
		level.Set(slog.LevelDebug)
		log.Debug("two")
		if got := b.String(); strings.Contains(got, "one") || !strings.Contains(got, "two") {
			t.Errorf("got %q, want the second line only", got)
		}
	})
}

// output is an io.Writer that can fail and block.
type output struct {
	mu   sync.Mutex // guards the fields below
	text strings.Builder
	err  error
	gate chan struct{} // not nil: Write waits until it is closed
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	gate := o.gate
	o.mu.Unlock()
	if gate != nil {
		<-gate
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return 0, o.err
	}
	return o.text.Write(p)
}

func (o *output) set(err error, gate chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err, o.gate = err, gate
}

func (o *output) lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Split(strings.TrimSuffix(o.text.String(), "\n"), "\n")
}

func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &output{}
		log, err := New(o, slog.LevelInfo, "json")
		if err != nil {
			t.Fatal(err)
		}
		log.Info("before")
		o.set(syscall.ENOSPC, nil)
		for range 3 {
			log.Info("lost")
		}
		o.set(nil, nil)
		log.Info("after")
		log.Info("still logging")

		var got []string
		for _, line := range o.lines() {
			var l struct {
				Msg   string
				Lines int
			}
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			got = append(got, fmt.Sprint(l.Msg, " ", l.Lines))
		}
		if want := "[before 0 after 0 log lines lost 3 still logging 0]"; fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
	})
}

func TestFullDevice(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("no /dev/full here:", err)
	}
	defer full.Close()
	log, err := New(full, slog.LevelInfo, "text")
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		log.Info("lost")
	}
}

func TestBlockedOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		o := &output{gate: gate}
		log, err := New(o, slog.LevelInfo, "text")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		log.Info("first")
		if waited := time.Since(start); waited != stallTimeout {
			t.Errorf("the first line waited %v, want %v", waited, stallTimeout)
		}
		const lines = 20000
		padding := strings.Repeat("x", 100)
		for i := range lines {
			log.Info("line", "i", i, "padding", padding)
		}
		if waited := time.Since(start); waited != stallTimeout {
			t.Errorf("the others waited %v, want no time", waited-stallTimeout)
		}
		close(gate)
		synctest.Wait()

		// The queued lines are complete and in order, and the others are counted.
		got := o.lines()
		kept := len(got) - 2
		if !strings.HasSuffix(got[0], "msg=first") || kept < 1000 || kept >= lines {
			t.Fatalf("got %d lines, the first: %s", len(got), got[0])
		}
		for i, line := range got[1 : 1+kept] {
			if !strings.Contains(line, fmt.Sprintf(" i=%d ", i)) {
				t.Fatalf("line %d: %s", i, line)
			}
		}
		if want := fmt.Sprintf(`level=ERROR msg="log lines lost" lines=%d`, lines-kept); !strings.HasSuffix(got[len(got)-1], want) {
			t.Errorf("last: %s\nwant %s", got[len(got)-1], want)
		}

		// Then logging works as before.
		log.Info("after")
		if got := o.lines(); !strings.HasSuffix(got[len(got)-1], "msg=after") {
			t.Errorf("last: %s", got[len(got)-1])
		}
	})
}

// The loss is reported even when the report itself fails at first.
func TestReportIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failing int
		var b bytes.Buffer
		log, err := New(writerFunc(func(p []byte) (int, error) {
			if failing > 0 || bytes.Contains(p, []byte("lines=1")) {
				failing--
				return 0, syscall.ENOSPC
			}
			return b.Write(p)
		}), slog.LevelInfo, "text")
		if err != nil {
			t.Fatal(err)
		}
		failing = 1
		log.Info("a") // lost
		log.Info("b") // written, but not the report
		failing = 1
		log.Info("c") // lost
		log.Info("d")
		if !strings.HasSuffix(b.String(), "lines=2\n") {
			t.Errorf("got\n%s", b.String())
		}
	})
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestConcurrentLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &output{}
		log, err := New(o, slog.LevelInfo, "text")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 100 {
					log.Info("line", "i", i, "j", j)
				}
			})
		}
		wg.Wait()
		if got := o.lines(); len(got) != 800 {
			t.Errorf("got %d lines, want 800", len(got))
		}
	})
}

func BenchmarkInfo(b *testing.B) {
	log, err := New(io.Discard, slog.LevelInfo, "text")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		log.Info("session resumed", "namespace", "/", "packets", 12)
	}
}
