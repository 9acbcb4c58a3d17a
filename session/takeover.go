package session

import (
	"time"

	"github.com/holdfast/holdfast/internal/instant"
)

// takeoverLimit limits how often a session is taken over.
type takeoverLimit struct {
	until instant.Instant // each takeover moves it on by its share of a minute
}

// allow counts a takeover. It returns false if there were too many recently.
func (l *takeoverLimit) allow(perMinute int) bool {
	if perMinute <= 0 {
		return true
	}
	now, each := instant.Now(), time.Minute/time.Duration(perMinute)
	from := l.until
	if from.Before(now) {
		from = now
	}
	if from.Add(each).Sub(now) > time.Minute {
		return false
	}
	l.until = from.Add(each)
	return true
}
