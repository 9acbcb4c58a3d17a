package proxy

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws/wsutil"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/metrics"
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
	c.mute = true // it confirms nothing: how much is in flight matters no more
	c.want(`40{"sid":"s"`)
	c.want(events...)
}

func TestBurstOfSmallPacketsDoesNotWaitForTheHeartbeat(t *testing.T) {
	// A small packet costs far more in the log than its bytes: the link is held with little in flight.
	r, s := newScriptedRig(t, func(c *config.Config) {
		c.Recovery.Buffer.Window = config.MinWindow
	})
	c := r.dial()
	up := s.accept()
	c.send("40")
	up.want("40")
	up.send(`40{"sid":"s"}`)
	c.want(`40{"sid":"s"`)
	const small = `430[]`                       // an acknowledgement: it gets no offset, which would add to its bytes
	some := slices.Repeat([]string{small}, 100) // fewer than hold the link, so that none is read ahead of that
	for range 30 {
		up.send(some...)
		c.want(some...)
	}
}

func TestWhatIsSentLeavesNoRoomBehind(t *testing.T) {
	c := &client{srv: &Server{metrics: metrics.New(prometheus.NewRegistry())}}
	c.sender.init(1<<20, time.Second)
	c.sender.pushRaw([]byte("x"), false, nil)
	for range 10_000 { // one always waits
		c.sender.pushRaw([]byte("x"), false, nil)
		c.Fill(&engineio.Encoder{}, 1)
	}
	if n := len(c.sender.pending) - c.sender.head; n != 1 {
		t.Fatalf("%d wait, want 1", n)
	}
	if room := cap(c.sender.pending); room > 256 {
		t.Errorf("one message waits, in room for %d", room)
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
			for range 1 << 20 / (size + attachmentOverhead) { // twice what there is room for
				if err := wsutil.WriteServerBinary(&batch, make([]byte, size)); err != nil {
					t.Fatal(err)
				}
			}
			_, _ = up.conn.Write(batch.Bytes()) // the end may come before all is taken
			r.awaitNoLinks()
			c.wantEnd()
			if got := r.proxy.incomplete.bytes.Load(); got != 0 {
				t.Errorf("%d bytes are still counted", got)
			}
			if !strings.Contains(r.logs.String(), "announced=10000000") {
				t.Error("nothing in the log")
			}
		})
	}
}
