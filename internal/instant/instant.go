// Package instant has points in time that take 8 bytes. A time.Time takes 24, which matters because
// every idle connection keeps several.
package instant

import "time"

// Instant is a point in time on the monotonic clock. It is comparable with others of the same
// process, and means nothing outside. The zero value is no point in time.
type Instant int64

// start lies before every Instant, so that all are greater than zero. That includes those in a
// bubble of testing/synctest, whose clock begins in the year 2000.
var start = time.Now().Add(-50 * 365 * 24 * time.Hour)

// Now returns the current time.
func Now() Instant { return Instant(time.Since(start)) }

// Since returns the time that has passed since t.
func Since(t Instant) time.Duration { return Now().Sub(t) }

// Add returns the time d after t.
func (t Instant) Add(d time.Duration) Instant { return t + Instant(d) }

// Sub returns how long before t the time u was.
func (t Instant) Sub(u Instant) time.Duration { return time.Duration(t - u) }

// IsZero reports whether t is the zero value.
func (t Instant) IsZero() bool { return t == 0 }

// Before reports whether t is before u.
func (t Instant) Before(u Instant) bool { return t < u }

// After reports whether t is after u.
func (t Instant) After(u Instant) bool { return t > u }
