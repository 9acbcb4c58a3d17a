package proxy

import (
	"strings"
	"testing"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/reason"
)

// Messages that wait for another primary link count towards the memory that all clients share for
// incomplete messages.
func TestMessagesThatWaitAreBounded(t *testing.T) {
	for _, enough := range []bool{true, false} {
		r, c, upstream := redialingRig(t, func(c *config.Config) { c.Recovery.Buffer.TotalBytes = 2 * config.MiB })
		cl := r.byOrder(1)
		wait := func(bytes int) (counted int64) {
			cl.sock.Input(func() {
				cl.receiver.wait(make([]byte, bytes), true)
				counted = r.proxy.incomplete.bytes.Load()
			})
			return counted
		}
		for _, step := range []struct{ bytes, want int }{{freeIncompleteBytes, 0}, {300 << 10, freeIncompleteBytes + 300<<10}} {
			if got := wait(step.bytes); got != int64(step.want) {
				t.Errorf("%d bytes are counted, want %d", got, step.want)
			}
		}
		if enough {
			cl.abort(reason.Takeover)
		} else {
			wait(300 << 10)
			if !strings.Contains(r.logs.String(), "no memory for messages that wait for the upstream") {
				t.Error("nothing in the log")
			}
		}
		c.wantEnd()
		wantCancelled(t, upstream)
		if got := r.proxy.incomplete.bytes.Load(); got != 0 {
			t.Errorf("%d bytes are still counted", got)
		}
	}
}
