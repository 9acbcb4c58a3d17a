package app

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/siotest/outputtest"
)

func TestDemoRecoversAndKeepsServing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout, stderr outputtest.Buffer
	done := make(chan error, 1)
	go func() {
		done <- command{version: "dev", stdout: &stdout, stderr: &stderr}.run(ctx, []string{"-demo", "-listen", "127.0.0.1:0"}, nil)
	}()
	for end := time.Now().Add(30 * time.Second); !strings.Contains(stdout.String(), "Press Ctrl-C to stop."); {
		if time.Now().After(end) {
			t.Fatalf("the demo does not finish:\n%s\n%s", stdout.String(), stderr.String())
		}
		select {
		case err := <-done:
			t.Fatalf("run = %v\n%s\n%s", err, stdout.String(), stderr.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	if !strings.Contains(stdout.String(), "Recovered: the same session, every missed message once and in order.") {
		t.Errorf("not recovered:\n%s", stdout.String())
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run = %v", err)
	}
	if stderr.String() != "" {
		t.Errorf("log: %s", stderr.String())
	}
}

func TestDemoIsStoppedEarly(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr outputtest.Buffer
	c := command{version: "dev", stdout: &stdout, stderr: &stderr}
	if err := c.run(ctx, []string{"-demo", "-listen", "127.0.0.1:0"}, nil); err != nil {
		t.Errorf("run = %v", err)
	}
}

func TestDemoCannotListen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	tests := []struct{ name, listen, want string }{
		{"taken", taken.Addr().String(), "address already in use"},
		{"not TCP", "unix:///tmp/holdfast-demo.sock", "host:port or :port"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr outputtest.Buffer
			err := command{version: "dev", stdout: &stdout, stderr: &stderr}.run(t.Context(), []string{"-demo", "-listen", tt.listen}, nil)
			if !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("run = %v, want ErrInvalid with %q", err, tt.want)
			}
		})
	}
}

func TestReachable(t *testing.T) {
	tests := []struct {
		in   net.TCPAddr
		want string
	}{
		{net.TCPAddr{IP: net.IPv6unspecified, Port: 80}, "127.0.0.1:80"},
		{net.TCPAddr{IP: net.IPv4zero, Port: 80}, "127.0.0.1:80"},
		{net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 80}, "192.0.2.1:80"},
	}
	for _, tt := range tests {
		if got := reachable(&tt.in); got != tt.want {
			t.Errorf("reachable(%v) = %q, want %q", tt.in, got, tt.want)
		}
	}
}
