//go:build linux

package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is what processes have used of the CPU since they began, in user and
// kernel mode. It is the sum of utime and stime in /proc/PID/stat, but from the
// clock they are rounded from: those count in hundredths of a second.
func cpuTime(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		// MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of the kernel, as
		// clock_getcpuclockid(3) does it.
		clock := int32(^pid)<<3 | 2
		var ts unix.Timespec
		if err := unix.ClockGettime(clock, &ts); err != nil {
			return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
		}
		sum += time.Duration(ts.Nano())
	}
	return sum, nil
}

// residentBytes is the memory of processes that is in RAM. Pages that they
// share are counted once for each.
func residentBytes(pids []int) (int64, error) {
	var sum int64
	for _, pid := range pids {
		n, err := rssOf(pid)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// rssOf reads smaps_rollup, which counts the pages, or else status, which may
// lag behind by some for every thread.
func rssOf(pid int) (int64, error) {
	n, err := memoryField(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Rss:")
	if err != nil {
		n, err = memoryField(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
	}
	return n, err
}

func memoryField(path, field string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) == 3 && words[0] == field && words[2] == "kB" {
			n, err := strconv.ParseInt(words[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, field)
}

// childrenOf returns the processes that pid has started: nginx's workers.
func childrenOf(pid int) []int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil // it has ended
	}
	var children []int
	for word := range strings.FieldsSeq(string(text)) {
		if n, err := strconv.Atoi(word); err == nil {
			children = append(children, n)
		}
	}
	return children
}
