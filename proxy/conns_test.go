package proxy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// await returns when what it waits for has ended, or when its time is over, and not because of
// other changes.
func TestAwaitConns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var conns conns
		end := conns.opening()
		conns.addPassing(1)
		conns.addWebSockets(1)
		start := time.Now()
		for wait, change := range []func(){end, func() { conns.addPassing(-1) }, func() { conns.addWebSockets(-1) }} {
			time.AfterFunc(time.Duration(wait+1)*time.Second, change)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		conns.awaitIdle(ctx)
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("with nothing left after 3s: returned after %v", took)
		}
		conns.addRedials(1)
		conns.await(ctx, func() bool { return conns.redials == 0 })
		if took := time.Since(start); took != time.Minute {
			t.Errorf("with a client that is not read, and a time of 1m: returned after %v", took)
		}
	})
}
