package steady

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// fake records what Try reports.
type fake struct {
	testing.TB
	failed bool
}

func (f *fake) Helper()               {}
func (f *fake) Logf(string, ...any)   {}
func (f *fake) Errorf(string, ...any) { f.failed = true }

func TestTry(t *testing.T) {
	wrong := errors.New("wrong")
	for _, tt := range []struct {
		name   string
		slack  time.Duration
		errs   []error // of the first measurements; the later ones have none
		want   int     // measurements
		failed bool
	}{
		{"right", time.Hour, nil, 1, false},
		{"wrong without a stall", time.Hour, []error{wrong}, 1, true},
		{"wrong once after a stall", -time.Hour, []error{wrong}, 2, false},
		{"wrong whenever it is measured", -time.Hour, everyTime(wrong), attempts, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			f := &fake{}
			Try(f, tt.slack, func() error {
				n++
				if n <= len(tt.errs) {
					return tt.errs[n-1]
				}
				return nil
			})
			if n != tt.want || f.failed != tt.failed {
				t.Errorf("measured %d times, failed %t; want %d, %t", n, f.failed, tt.want, tt.failed)
			}
		})
	}
}

func everyTime(err error) (all []error) {
	for range attempts {
		all = append(all, err)
	}
	return all
}

func TestWatchSeesNoStallInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := watch()
		time.Sleep(time.Minute)
		if stall := done(); stall > 0 {
			t.Errorf("a stall of %v", stall)
		}
	})
}

func TestMain(m *testing.M) { VerifyTestMain(m) }
