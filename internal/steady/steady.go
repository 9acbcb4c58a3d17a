// Package steady helps tests on machines that stall: with few slow processors and other work, any
// goroutine may stand still for seconds.
//
// Tests await conditions, or run in a testing/synctest bubble. This package is for what can do
// neither.
package steady

import (
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// leakLimit is how long goroutines that are about to end may take to do so. goleak alone gives them
// half a second.
const leakLimit = 20 * time.Second

// VerifyTestMain runs a package's tests, and fails if they leave goroutines behind.
func VerifyTestMain(m *testing.M, options ...goleak.Option) {
	goleak.VerifyTestMain(patient{m, options}, options...)
}

// patient waits until the tests' goroutines have ended, up to leakLimit.
type patient struct {
	m       *testing.M
	options []goleak.Option
}

// Run implements goleak.TestingM.
func (p patient) Run() (code int) {
	if code = p.m.Run(); code != 0 {
		return code
	}
	for end := time.Now().Add(leakLimit); goleak.Find(p.options...) != nil && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	return 0
}

// attempts is how often Try measures at most.
const attempts = 20

// Try is for a measurement in real time that a stall spoils. It fails if measure returns an error,
// except after a stall longer than slack: then it measures again. So whatever is wrong without a
// stall fails the test.
func Try(t testing.TB, slack time.Duration, measure func() error) {
	t.Helper()
	for left := attempts - 1; ; left-- {
		done := watch()
		err := measure()
		stall := done()
		if err == nil {
			return
		}
		if stall <= slack || left == 0 {
			t.Errorf("%v (the longest stall meanwhile: %v)", err, stall)
			return
		}
		t.Logf("once more after a stall of %v: %v", stall, err)
	}
}

// watch watches for stalls. done returns the longest one.
func watch() (done func() time.Duration) {
	const tick = 2 * time.Millisecond
	var longest time.Duration
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { // ends with done
		for {
			start := time.Now()
			select {
			case <-time.After(tick):
				longest = max(longest, time.Since(start)-tick)
			case <-stop:
				longest = max(longest, time.Since(start)-tick)
				return
			}
		}
	})
	return func() time.Duration {
		close(stop)
		watching.Wait()
		return longest
	}
}
