package proxy

import (
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/siotest/sioclient"
)

// Nor does a stolen pid end the session or delay its owner.
func TestStolenPIDDoesNotResume(t *testing.T) {
	r := newRig(t, func(c *config.Config) {
		c.Recovery.Bind.Cookies = []string{"user"}
		c.Recovery.Bind.Auth = []string{"token"}
	})
	open := func(cookie, token string) *sioclient.Client {
		c := sioclient.New(sioclient.Options{
			URL: r.url, Header: http.Header{"Cookie": {"user=" + cookie}}, Auth: map[string]any{"token": token},
		})
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	owner := open("owner", "secret-token")
	id, pid := owner.ID(), owner.PID()
	owner.Cut()
	r.await("parking", func() bool { _, parked := r.proxy.registry.Counts(); return parked == 1 })

	for i, auth := range []map[string]any{{"token": "guess", "pid": pid}, {"pid": pid}, {"token": "secret-token", "pid": pid}} {
		thief := sioclient.New(sioclient.Options{URL: r.url, Header: http.Header{"Cookie": {"user=thief"}}, Auth: auth})
		if err := thief.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if thief.ID() == id {
			t.Fatalf("attempt %d got the session", i)
		}
		thief.Close()
	}
	if got := testutil.ToFloat64(r.metrics.Takeovers); got != 0 {
		t.Errorf("%v takeovers", got)
	}
	if err := owner.Reconnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !owner.Recovered() || owner.ID() != id {
		t.Error("the owner was not recovered")
	}
	log := r.logs.String()
	if n := strings.Count(log, "reason=binding"); n != 3 {
		t.Errorf("%d log lines with the reason, want 3", n)
	}
	for _, secret := range []string{pid, "secret-token", "user=", "guess"} {
		if strings.Contains(log, secret) {
			t.Errorf("%q is in the log", secret)
		}
	}
}
