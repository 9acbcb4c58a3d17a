//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// adminSocket is where holdfast's admin listener is while it is profiled.
func adminSocket(dir string) string { return filepath.Join(dir, "admin.sock") }

// adminClient makes requests to that listener.
func adminClient(dir string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", adminSocket(dir))
		},
	}}
}

// profile takes a CPU profile of holdfast during a measurement, and writes it into the directory
// that -profile names. wait returns when the file is written.
func profile(ctx context.Context, o *options, scenario, dir string) (wait func() error) {
	done := make(chan error, 1) // one: the goroutine below ends without a receiver
	go func() { done <- writeProfile(ctx, o, scenario, dir) }()
	return func() error { return <-done }
}

func writeProfile(ctx context.Context, o *options, scenario, dir string) error {
	client := adminClient(dir)
	seconds := max(1, int((o.duration+o.warmup)/time.Second))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://holdfast/debug/pprof/profile?seconds=%d", seconds), nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	profile, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("profile: %s: %.100s", resp.Status, profile)
	}
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%s-%d.pb.gz", scenario, time.Now().UnixMilli())
	return os.WriteFile(filepath.Join(o.profile, name), profile, 0o644)
}
