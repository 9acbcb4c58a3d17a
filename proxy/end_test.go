package proxy

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/gobwas/ws/wsutil"

	"github.com/holdfast/holdfast/internal/config"
)

func TestClientGetsAllThatWasSentBeforeItsLinkEnded(t *testing.T) {
	r, s := newScriptedRig(t, nil)
	c := r.dial()
	up := s.accept()
	c.send("40")
	up.want("40")
	events := make([]string, 4*firstInFlight>>10)
	for i := range events {
		events[i] = fmt.Sprintf(`42["n",%d,"%s"`, i, strings.Repeat("x", 1<<10))
	}
	up.send(`40{"sid":"s"}`)
	for _, e := range events {
		up.send(e + "]")
	}
	up.conn.Close()
	r.awaitNoLinks()
	c.ignoresPings = true // it confirms nothing: the window must not matter any more
	c.want(`40{"sid":"s"`)
	c.want(events...)
}

func TestBurstOfSmallPacketsDoesNotWaitForTheHeartbeat(t *testing.T) {
	// A small packet costs far more in the log than its bytes, so few bytes in flight pause the
	// link.
	r, s := newScriptedRig(t, func(c *config.Config) {
		c.Recovery.Buffer.Window = config.MinWindow
	})
	c := r.dial()
	up := s.accept()
	c.send("40")
	up.want("40")
	up.send(`40{"sid":"s"}`)
	c.want(`40{"sid":"s"`)
	const small = `430[]`                       // an acknowledgement, because an offset would make it larger
	some := slices.Repeat([]string{small}, 100) // too few to pause the link while they are read
	for range 30 {
		up.send(some...)
		c.want(some...)
	}
}

func TestServersAttachmentsThatNeverComeAreBounded(t *testing.T) {
	for _, size := range []int{0, 10 << 10} {
		t.Run(fmt.Sprintf("of %d bytes", size), func(t *testing.T) {
			r, s := newScriptedRig(t, func(c *config.Config) { c.Recovery.Buffer.TotalBytes = 2 * config.MiB })
			c := r.dial()
			up := s.accept()
			c.send("40")
			up.want("40")
			up.send(`40{"sid":"s"}`)
			c.want(`40{"sid":"s"`)
			up.send(`4510000000-["x",{"_placeholder":true,"num":0}]`)
			var batch bytes.Buffer
			for range 1 << 20 / (size + attachmentOverhead) { // twice the limit
				if err := wsutil.WriteServerBinary(&batch, make([]byte, size)); err != nil {
					t.Fatal(err)
				}
			}
			_, _ = up.conn.Write(batch.Bytes()) // fails if the proxy closes the link first
			r.awaitNoLinks()
			c.wantEnd()
			if got := r.proxy.incomplete.bytes.Load(); got != 0 {
				t.Errorf("%d bytes are still counted", got)
			}
			for _, want := range []string{"announced=10000000", "key=recovery.buffer.total_bytes"} {
				if !strings.Contains(r.logs.String(), want) {
					t.Errorf("no %s in the log", want)
				}
			}
		})
	}
}
