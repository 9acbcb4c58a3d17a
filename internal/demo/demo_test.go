package demo

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/siotest/outputtest"
	"github.com/holdfast/holdfast/internal/steady"
)

func TestMain(m *testing.M) { steady.VerifyTestMain(m) }

// quick returns options for a fast demo.
func quick(startProxy func(context.Context, string, string) (string, func(), error)) Options {
	return Options{
		StartProxy: startProxy, ExitWhenDone: true,
		Away: 60 * time.Millisecond, Pause: time.Millisecond,
	}
}

// noProxy is a StartProxy that connects the client directly to the legacy server.
func noProxy(_ context.Context, _, upstreamURL string) (addr string, stop func(), err error) {
	u, err := url.Parse(upstreamURL)
	if err != nil {
		return "", nil, err
	}
	return u.Host, func() {}, nil
}

// wantLines checks that out has lines that match, in this order. There may be others in between.
func wantLines(t *testing.T, out string, patterns ...string) {
	t.Helper()
	rest := out
	for _, p := range patterns {
		at := regexp.MustCompile("(?m)^" + p + "$").FindStringIndex(rest)
		if at == nil {
			t.Fatalf("no line %q in its place in\n%s", p, out)
		}
		rest = rest[at[1]:]
	}
}

func TestRunWithoutHoldfast(t *testing.T) {
	var out bytes.Buffer
	err := Run(t.Context(), &out, quick(noProxy))
	if !errors.Is(err, ErrNotRecovered) || !strings.Contains(err.Error(), "not recovered") {
		t.Errorf("Run = %v, want ErrNotRecovered", err)
	}
	wantLines(t, out.String(),
		`  legacy server  http://127\.0\.0\.1:\d+  .*`,
		` +\d+\.\d\ds  client   connected, id \S{20}`,
		` +\d+\.\d\ds  client   receives message 3`,
		` +\d+\.\d\ds  network  the client's TCP connection is cut`,
		` +\d+\.\d\ds  server   sends message 8, while the client is away`,
		` +\d+\.\d\ds  client   reconnected, id \S{20} \(a new one\), recovered: false`,
		` +\d+\.\d\ds  client   receives message 9`,
		` +\d+\.\d\ds  server   its connection handler ran 2 times; it saw 1 disconnect`,
		`  missed messages +0 of 5 +0 of 5`,
		`  Not recovered\.`,
	)
	if strings.Contains(out.String(), "\x1b") {
		t.Error("escape sequences, though the output is no terminal")
	}
}

func TestRunWithRecovery(t *testing.T) {
	var out bytes.Buffer
	if err := Run(t.Context(), &out, quick(startFake)); err != nil {
		t.Errorf("Run = %v", err)
	}
	wantLines(t, out.String(),
		` +\d+\.\d\ds  network  the client's TCP connection is cut`,
		` +\d+\.\d\ds  client   reconnected, id \S{20} \(the same\), recovered: true`,
		` +\d+\.\d\ds  client   receives message 4, which it had missed`,
		` +\d+\.\d\ds  client   receives message 8, which it had missed`,
		` +\d+\.\d\ds  client   receives message 9`,
		` +\d+\.\d\ds  server   its connection handler ran once; it saw no disconnect`,
		`  the server noticed immediately: 1 disconnect \(transport close\)`,
		`  reconnected as a new client, id \S{20}, recovered: false`,
		`  received 0 of the 5 messages it had missed`,
		`  socket id +the same +a new one`,
		`  socket.recovered +true +false`,
		`  missed messages +5 of 5 +0 of 5`,
		`  connection handler ran +once +2 times`,
		`  disconnects seen +0 +1`,
		`  Recovered: .*`,
	)
	if strings.Contains(out.String(), ", again") {
		t.Error("messages arrived twice")
	}
}

func TestRunServesUntilItIsStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	opts := quick(startFake)
	opts.ExitWhenDone = false
	var out outputtest.Buffer
	done := make(chan error, 1)
	go func() { done <- Run(ctx, &out, opts) }()

	invitation := regexp.MustCompile(`(?s)io\("(http://[^"]+)"\).*Without holdfast: (http://\S+)\n`)
	var addrs []string
	for end := time.Now().Add(30 * time.Second); addrs == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no invitation in\n%s", out.String())
		}
		addrs = invitation.FindStringSubmatch(out.String())
	}
	ticks := listen(t, addrs[2])
	select {
	case <-ticks:
	case <-time.After(30 * time.Second):
		t.Error("no tick")
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestRunIsStoppedEarly(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	opts := quick(noProxy)
	opts.Away = time.Hour
	out := &outputtest.Buffer{}
	done := make(chan error, 1)
	go func() { done <- Run(ctx, out, opts) }()
	for !strings.Contains(out.String(), "is cut") {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want context.Canceled", err)
	}
}

func TestRunCannotStart(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	opts := quick(noProxy)
	opts.LegacyAddr = busy.Addr().String()
	if err := Run(t.Context(), &bytes.Buffer{}, opts); err == nil {
		t.Error("address in use: no error")
	}
	errProxy := errors.New("cannot start")
	opts = quick(func(context.Context, string, string) (string, func(), error) { return "", nil, errProxy })
	if err := Run(t.Context(), &bytes.Buffer{}, opts); !errors.Is(err, errProxy) {
		t.Errorf("Run = %v, want %v", err, errProxy)
	}
	opts = quick(func(context.Context, string, string) (string, func(), error) {
		return "127.0.0.1:1", func() {}, nil // nothing listens there
	})
	if err := Run(t.Context(), &bytes.Buffer{}, opts); err == nil || errors.Is(err, ErrNotRecovered) {
		t.Errorf("nothing listens: %v", err)
	}
}

func TestCheck(t *testing.T) {
	good := outcome{"a", "a", true, []int{1, 2, 3, 4, 5, 6, 7, 8, 9}, visits{connections: 1}}
	tests := []struct {
		name   string
		change func(*outcome)
		want   string // in the error; empty: none
	}{
		{"recovered", func(*outcome) {}, ""},
		{"not told so", func(o *outcome) { o.recovered = false }, "new session"},
		{"other id", func(o *outcome) { o.secondID = "b" }, "id changed"},
		{"lost", func(o *outcome) { o.received = []int{1, 2, 3, 4, 5, 6, 7, 9} }, "received messages"},
		{"twice", func(o *outcome) { o.received = []int{1, 2, 3, 3, 4, 5, 6, 7, 8, 9} }, "received messages"},
		{"out of order", func(o *outcome) { o.received = []int{1, 2, 3, 5, 4, 6, 7, 8, 9} }, "received messages"},
		{"seen to reconnect", func(o *outcome) { o.visits.connections = 2 }, "2 connections"},
		{"seen to leave", func(o *outcome) { o.visits.disconnects = 1 }, "1 disconnect"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := good
			tt.change(&o)
			err := o.check()
			if tt.want == "" {
				if err != nil {
					t.Errorf("check() = %v", err)
				}
				return
			}
			if !errors.Is(err, ErrNotRecovered) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("check() = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestColour(t *testing.T) {
	var plain, coloured bytes.Buffer
	for _, n := range []*narrator{{out: &plain}, {out: &coloured, colour: true}} {
		n.opening("a", "b")
		n.say("client", "x")
		n.contrast(outcome{})
		n.summary(outcome{}, outcome{})
		n.invitation("a", "b")
	}
	stripped := regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(coloured.String(), "")
	if stripped != plain.String() || stripped == coloured.String() {
		t.Errorf("colour changes the text, or is missing:\n%s\n%s", stripped, plain.String())
	}
	if wantsColour(os.Stdin) && os.Getenv("NO_COLOR") != "" {
		t.Error("NO_COLOR is ignored")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if wantsColour(w) || wantsColour(&plain) {
		t.Error("colours without a terminal")
	}
}
