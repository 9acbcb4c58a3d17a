package proxy

import (
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/limit"
	"github.com/holdfast/holdfast/internal/siotest/sioclient"
)

func TestReload(t *testing.T) {
	r := newRig(t, nil)
	c := r.client()
	reload := func(change func(*config.Config)) {
		t.Helper()
		cfg := r.proxy.Config()
		change(&cfg)
		if err := r.proxy.Reload(cfg); err != nil {
			t.Fatal(err)
		}
	}

	// A reload that does not change a rate does not reset its count.
	reload(func(c *config.Config) { c.Limits.HandshakesPerSecondPerAddress = 1 })
	local := netip.MustParseAddr("127.0.0.1")
	exhaust := func() (n int) {
		for r.proxy.settings().handshakeRate.Allow(local) {
			n++
		}
		return n
	}
	exhaust()
	reload(func(c *config.Config) { c.Recovery.MaxParkedSessions = 7 })
	if n := exhaust(); n >= limit.BurstSeconds { // one for each second since
		t.Error("the rate was reset")
	}
	if got := testutil.ToFloat64(r.metrics.ParkedLimit); got != 7 {
		t.Errorf("the metric says that %v may be parked, want 7", got)
	}
	r.await("a handshake over the new limit to be refused", func() bool { // a second later another one is let in
		exhaust()
		late := sioclient.New(sioclient.Options{URL: r.url})
		defer late.Close()
		return late.Connect(t.Context()) != nil
	})
	reload(func(c *config.Config) { c.Limits.HandshakesPerSecondPerAddress = 0 })

	// Parked sessions keep their time. Sessions parked later get the new one.
	c.Cut()
	r.await("parking", func() bool { _, parked := r.proxy.registry.Counts(); return parked == 1 })
	reload(func(c *config.Config) { c.Recovery.MaxDisconnectionDuration = 10 * time.Millisecond })
	if err := c.Reconnect(t.Context()); err != nil || !c.Recovered() {
		t.Fatalf("not recovered after the reload, %v", err)
	}
	if got := r.disconnected(); len(got) > 0 {
		t.Errorf("the server saw %v", got)
	}
	c.Cut()
	r.await("expiry", func() bool { return testutil.ToFloat64(r.metrics.Expirations) == 1 })
}
