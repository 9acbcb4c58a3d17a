package proxy

import (
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/siotest/sioclient"
	"github.com/holdfast/holdfast/session"
)

func TestBinder(t *testing.T) {
	b := newBinder(config.Bind{Headers: []string{"authorization", "Host"}, Cookies: []string{"sid", "user"}, Auth: []string{"token", "user"}})
	binding := func(host, connect string, header ...string) session.Binding {
		h := http.Header{}
		for i := 0; i < len(header); i += 2 {
			h.Add(header[i], header[i+1])
		}
		return b.session(b.handshake(engineio.Request{Host: host, Header: h}), []byte(connect))
	}
	const auth = `0{"token":"t","user":{"id":1,"name":"x"}}`
	own := binding("a.test", auth, "Authorization", "Bearer x", "Cookie", `sid=1; user={"id":1,"n":2}; theme=dark`)
	tests := []struct {
		name, host, connect string
		header              []string
		same                bool
	}{
		{"all the same", "a.test", auth, []string{"Authorization", "Bearer x", "Cookie", `sid=1; user={"id":1,"n":2}; theme=dark`}, true},
		{
			"others differ", "a.test", `0/other,{"user": {"name":"x","id":1}, "token":"t", "more":1}`,
			[]string{"X-Other", "1", "Authorization", "Bearer x", "Cookie", `theme=light;user={"id":1,"n":2}`, "Cookie", "sid=1"},
			true,
		},
		{"another header", "a.test", auth, []string{"Authorization", "Bearer y", "Cookie", `sid=1; user={"id":1,"n":2}`}, false},
		{"no header", "a.test", auth, []string{"Cookie", `sid=1; user={"id":1,"n":2}`}, false},
		{"an empty header", "a.test", auth, []string{"Authorization", "", "Cookie", `sid=1; user={"id":1,"n":2}`}, false},
		{"the header twice", "a.test", auth, []string{"Authorization", "Bearer x", "Authorization", "Bearer x", "Cookie", `sid=1; user={"id":1,"n":2}`}, false},
		{"another host", "b.test", auth, []string{"Authorization", "Bearer x", "Cookie", `sid=1; user={"id":1,"n":2}`}, false},
		{"another cookie that net/http would not read", "a.test", auth, []string{"Authorization", "Bearer x", "Cookie", `sid=1; user={"id":2,"n":2}`}, false},
		{"no cookie", "a.test", auth, []string{"Authorization", "Bearer x"}, false},
		{"values of two cookies exchanged", "a.test", auth, []string{"Authorization", "Bearer x", "Cookie", `user=1; sid={"id":1,"n":2}`}, false},
		{"another token", "a.test", `0{"token":"u","user":{"id":1,"name":"x"}}`, []string{"Authorization", "Bearer x", "Cookie", `sid=1; user={"id":1,"n":2}`}, false},
		{"another object", "a.test", `0{"token":"t","user":{"id":1,"name":"y"}}`, []string{"Authorization", "Bearer x", "Cookie", `sid=1; user={"id":1,"n":2}`}, false},
		{"no auth", "a.test", `0`, []string{"Authorization", "Bearer x", "Cookie", `sid=1; user={"id":1,"n":2}`}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := binding(tt.host, tt.connect, tt.header...); (got == own) != tt.same {
				t.Errorf("the same binding: %v, want %v", got == own, tt.same)
			}
		})
	}
	if other := newBinder(b.Bind); other.session(other.handshake(engineio.Request{}), nil) == binding("", "") {
		t.Error("two processes make the same digest")
	}
	if newBinder(config.Bind{}).session("", []byte(auth)) != "" {
		t.Error("bound although nothing is configured")
	}
}

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
