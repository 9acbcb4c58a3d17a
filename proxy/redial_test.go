package proxy

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/reason"
)

// What waits for another primary link counts in the memory that all clients share for what is incomplete.
func TestMessagesThatWaitAreBounded(t *testing.T) {
	for _, enough := range []bool{true, false} {
		url, s, asked, answer := slowUpstream(t)
		r := newRig(t, func(c *config.Config) {
			c.Upstream.URL = config.URLs{url}
			c.Recovery.Buffer.TotalBytes = 2 * config.MiB
		})
		go func() { // ends with the first handshake
			<-asked
			answer <- struct{}{}
		}()
		c := r.dial()
		first := s.accept()
		c.send("40/a,", "40/b,")
		first.want("40/a,", "40/b,")
		first.send(`40/a,{"sid":"a1"}`, `40/b,{"sid":"b1"}`)
		c.want("40/a,", "40/b,")
		c.send("41/a,", "40/a,")
		upstream := <-asked
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
		select {
		case <-upstream.Done():
		case <-time.After(5 * time.Second): // less than the handshake timeout of 10 s
			t.Error("the dial was not cancelled")
		}
		if got := r.proxy.incomplete.bytes.Load(); got != 0 {
			t.Errorf("%d bytes are still counted", got)
		}
	}
}
