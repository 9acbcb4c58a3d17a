//go:build !linux

package netpoll

// unacknowledged returns 0: other systems do not tell.
func unacknowledged(int) int { return 0 }
