package binding

import (
	"net/http"
	"testing"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/session"
)

func TestBinder(t *testing.T) {
	b := New(config.Bind{Headers: []string{"authorization", "Host"}, Cookies: []string{"sid", "user"}, Auth: []string{"token", "user"}})
	binding := func(host, connect string, header ...string) session.Binding {
		h := http.Header{}
		for i := 0; i < len(header); i += 2 {
			h.Add(header[i], header[i+1])
		}
		return b.Session(b.Handshake(engineio.Request{Host: host, Header: h}), []byte(connect))
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
	if other := New(b.Bind); other.Session(other.Handshake(engineio.Request{}), nil) == binding("", "") {
		t.Error("two processes make the same digest")
	}
	if New(config.Bind{}).Session("", []byte(auth)) != "" {
		t.Error("bound although nothing is configured")
	}
}
