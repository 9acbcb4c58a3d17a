package app

import (
	"fmt"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/courier"
)

// childWaitDelay limits how long a child's output may stay open after its end: a descendant may
// have it. On a busy machine reading it takes a while.
const childWaitDelay = 2 * time.Second

const (
	// sessionBytes and linkBytes are about what a session and its link take in a snapshot, without
	// the session's packets.
	sessionBytes, linkBytes = 400, 200
)

// checkMemory returns an error if the container's memory does not suffice for the snapshot in
// addition to the process.
func (h *handoverer) checkMemory() error {
	limit, ok := config.ContainerLimit()
	if !ok {
		return nil
	}
	live, parked := h.in.proxy.Sessions()
	need := h.in.proxy.BufferedBytes() + int64(live+parked)*(sessionBytes+linkBytes)
	if used := courier.ResidentBytes(); used+need > int64(limit) {
		return fmt.Errorf("the container's memory limit (%v) leaves no room for about %v in addition to the %v in use",
			limit, config.Size(need), config.Size(used))
	}
	return nil
}
