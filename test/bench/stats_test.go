//go:build linux

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	tests := []struct {
		in   []float64
		want float64
	}{
		{nil, 0},
		{[]float64{7}, 7},
		{[]float64{9, 1, 5}, 5},
		{[]float64{9, 1, 5, 2}, 3.5},
	}
	for _, tt := range tests {
		before := fmt.Sprint(tt.in)
		if got := median(tt.in); got != tt.want || fmt.Sprint(tt.in) != before {
			t.Errorf("median(%v) = %v, want %v; and its argument unchanged", before, got, tt.want)
		}
	}
}

func TestQuantile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(100 - i)
	}
	tests := []struct {
		in   []time.Duration
		q    float64
		want time.Duration
	}{
		{nil, 0.5, 0},
		{[]time.Duration{3}, 0.99, 3},
		{[]time.Duration{3}, 0, 3},
		{hundred, 0.5, 50},
		{hundred, 0.99, 99},
		{hundred, 0.999, 100},
		{hundred, 1, 100},
		{[]time.Duration{2, 1}, 0.5, 1},
	}
	for _, tt := range tests {
		if got := quantile(tt.in, tt.q); got != tt.want {
			t.Errorf("quantile of %d values, %v = %d, want %d", len(tt.in), tt.q, got, tt.want)
		}
	}
}

func TestRatioIsWithinRounds(t *testing.T) {
	a := []values{{"m": 2}, {"m": 40}, nil, {"m": 6}, {"m": 1}}
	b := []values{{"m": 1}, {"m": 10}, {"m": 1}, {}, {"m": 0}}
	if got, ok := ratio(a, b, "m"); got != 3 || !ok { // of 2 and 4
		t.Errorf("ratio = %v, %v; want 3, true", got, ok)
	}
	if _, ok := ratio(a, nil, "m"); ok {
		t.Errorf("ratio to nothing is true")
	}
	if got := column(a, "m"); fmt.Sprint(got) != "[2 40 6 1]" {
		t.Errorf("column = %v", got)
	}
}

// A process's CPU clock and /proc agree.
func TestCPUTime(t *testing.T) {
	for start := time.Now(); time.Since(start) < 50*time.Millisecond; {
		_ = payloadOf(1000)
	}
	used := func() time.Duration {
		t.Helper()
		got, err := cpuTime([]int{os.Getpid()})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	before := used()
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	after := used()
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest) // from the third on
	var ticks int
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	const rounding = 50 * time.Millisecond
	if got := time.Duration(ticks) * 10 * time.Millisecond; got < before-rounding || got > after+rounding {
		t.Errorf("cpuTime = %v, then /proc/self/stat says %v, then cpuTime = %v", before, got, after)
	}
	if _, err := cpuTime([]int{1<<22 + 1}); err == nil {
		t.Errorf("cpuTime of a process that cannot be succeeded")
	}
}

func TestResidentBytes(t *testing.T) {
	got, err := residentBytes([]int{os.Getpid()})
	if err != nil || got < 1<<20 || got > 4<<30 {
		t.Errorf("residentBytes = %d, %v; want some megabytes", got, err)
	}
}
