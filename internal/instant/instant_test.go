package instant_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/internal/instant"
)

func TestFollowsTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := instant.Now()
		if before <= 0 {
			t.Error("Now is not after zero:", before)
		}
		time.Sleep(3 * time.Second)
		if got := instant.Since(before); got != 3*time.Second {
			t.Errorf("since 3s ago: %v", got)
		}
		after := before.Add(3 * time.Second)
		if after != instant.Now() || after.Sub(before) != 3*time.Second {
			t.Errorf("3s after %d: %d", before, after)
		}
		if !before.Before(after) || !after.After(before) || after.Before(after) || after.After(after) {
			t.Error("order is wrong")
		}
	})
}

func TestZeroIsNoTime(t *testing.T) {
	var none instant.Instant
	if !none.IsZero() || instant.Now().IsZero() || !none.Before(instant.Now()) {
		t.Error("the zero Instant must be before all others")
	}
}
