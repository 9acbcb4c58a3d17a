package engineio

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// Requests that follow a handshake have its cookies, for sticky balancers.
func TestCookiesAreKept(t *testing.T) {
	s := newServer(t, false)
	d := dial(s, clientRequest(false))
	x := s.handshake(t)
	x.w.Header().Add("Set-Cookie", "node=7; Path=/; HttpOnly")
	x.w.Header().Add("Set-Cookie", `a=2`)
	x.answer(http.StatusOK, serverHandshake.with(func(h *Handshake) { h.Upgrades = []string{"websocket"} }))
	c := d.open(t)
	begin(t, c)
	want := "node=7; a=2"
	if got := s.poll(t).Header.Get("Cookie"); got != want {
		t.Errorf("polled with cookies %q, want %q", got, want)
	}
	c.Send([]byte("x"), nil)
	c.Flush()
	if got := s.post(t).Header.Get("Cookie"); got != want {
		t.Errorf("posted with cookies %q, want %q", got, want)
	}
	if got := s.socket(t).Header.Get("Cookie"); got != want {
		t.Errorf("upgraded with cookies %q, want %q", got, want)
	}
}

func TestWithCookies(t *testing.T) {
	tests := []struct {
		name   string
		cookie []string
		set    []string
		want   []string
	}{
		{"none set", []string{"a=1"}, nil, []string{"a=1"}},
		{"none at all", nil, nil, nil},
		{"first", nil, []string{"io=x; Path=/; HttpOnly; SameSite=Lax"}, []string{"io=x"}},
		{"one more", []string{"a=1; b=2"}, []string{"io=x"}, []string{"a=1; b=2; io=x"}},
		{"several headers", []string{"a=1", "b=2"}, []string{"io=x", "c=3"}, []string{"a=1; b=2; io=x; c=3"}},
		{"replaced", []string{"io=old; a=1"}, []string{"io=new"}, []string{"a=1; io=new"}},
		{"set twice", nil, []string{"io=1", "io=2"}, []string{"io=2"}},
		{"deleted", []string{"a=1; io=old"}, []string{"io=; Max-Age=0"}, []string{"a=1"}},
		{"expired", []string{"a=1; io=old"}, []string{"io=; Expires=Thu, 01 Jan 1970 00:00:00 GMT"}, []string{"a=1"}},
		{"to expire later", nil, []string{"io=x; Expires=Fri, 01 Jan 2100 00:00:00 GMT"}, []string{"io=x"}},
		{"all deleted", []string{"io=old"}, []string{"io=x; Max-Age=-1"}, nil},
		{"the others as they are", []string{`j={"a":"b, c"}; q="x y"; plain; ü=é`}, []string{"io=x"}, []string{`j={"a":"b, c"}; q="x y"; plain; ü=é; io=x`}},
		{"as it was set", nil, []string{`io="a b"; Path=/`, `j={"x":1}`}, []string{`io="a b"; j={"x":1}`}},
		{"case counts", []string{"IO=1"}, []string{"io=2"}, []string{"IO=1; io=2"}},
		{"no name", []string{"a=1"}, []string{"=x", "", ";"}, []string{"a=1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			header := http.Header{"Accept": {"*/*"}}
			if tt.cookie != nil {
				header["Cookie"] = tt.cookie
			}
			before := header.Clone()
			got := withCookies(header, http.Header{"Set-Cookie": tt.set})
			if !slices.Equal(got["Cookie"], tt.want) || got.Get("Accept") != "*/*" {
				t.Errorf("Cookie: %q, want %q", got["Cookie"], tt.want)
			}
			if fmt.Sprint(header) != fmt.Sprint(before) {
				t.Errorf("the request's header was changed to %v", header)
			}
		})
	}
}

func FuzzWithCookies(f *testing.F) {
	f.Add("a=1; b=2", "io=x; Path=/")
	f.Add("", "io=; Max-Age=0")
	f.Add(`j={"a":1}`, `q="x"; Expires=Thu, 01 Jan 1970 00:00:00 GMT`)
	f.Fuzz(func(t *testing.T, cookie, set string) {
		header := http.Header{"Cookie": {cookie}}
		got := withCookies(header, http.Header{"Set-Cookie": {set}})
		if header.Get("Cookie") != cookie {
			t.Fatal("the request's header was changed")
		}
		name, _, _ := strings.Cut(set, "=")
		name = strings.TrimSpace(name)
		for pair := range strings.SplitSeq(cookie, ";") {
			pair = strings.TrimSpace(pair)
			old, _, _ := strings.Cut(pair, "=")
			if pair != "" && strings.TrimSpace(old) != name && !strings.Contains(got.Get("Cookie"), pair) {
				t.Fatalf("%q with %q set became %q", cookie, set, got)
			}
		}
	})
}

func TestLaterQuery(t *testing.T) {
	tests := []struct{ name, handshake, sid, t, want string }{
		{"polling", "EIO=4&transport=polling&t=abc", "x", "1", "EIO=4&transport=polling&sid=x&t=1"},
		{"without a cache buster", "EIO=4&transport=polling", "x", "", "EIO=4&transport=polling&sid=x"},
		{"the application's own", "user=a%20b&EIO=4&token=x=y&transport=polling&flag", "x", "1", "user=a%20b&EIO=4&token=x=y&flag&transport=polling&sid=x&t=1"},
		{"empty pairs", "&&EIO=4&&", "x", "", "EIO=4&transport=polling&sid=x"},
		{"base64", "b64=1&EIO=4", "x", "", "EIO=4&transport=polling&sid=x"},
		{"a sid that was there", "EIO=4&sid=old", "x", "", "EIO=4&transport=polling&sid=x"},
		{"sid with special characters", "EIO=4", "a+b/c=&d", "", "EIO=4&transport=polling&sid=a%2Bb%2Fc%3D%26d"},
		{"none", "", "x", "", "transport=polling&sid=x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := laterQuery(tt.handshake, "polling", tt.sid, tt.t); got != tt.want {
				t.Errorf("laterQuery(%q) = %q, want %q", tt.handshake, got, tt.want)
			}
		})
	}
}

func FuzzLaterQuery(f *testing.F) {
	f.Add("EIO=4&transport=polling&t=abc", "sid")
	f.Add("a=1&&b64=1&sid=x&&c", "a+b/c")
	f.Fuzz(func(t *testing.T, handshake, sid string) {
		got := laterQuery(handshake, "websocket", sid, "z")
		var kept []string
		for pair := range strings.SplitSeq(handshake, "&") {
			key, _, _ := strings.Cut(pair, "=")
			if !slices.Contains([]string{"", "transport", "sid", "t", "b64"}, key) {
				kept = append(kept, pair)
			}
		}
		pairs := strings.Split(got, "&")
		if n := len(pairs) - 3; n < 0 || !slices.Equal(pairs[:n], kept) {
			t.Fatalf("%q became %q", handshake, got)
		}
		own, err := url.ParseQuery(strings.Join(pairs[len(pairs)-3:], "&"))
		if err != nil || own.Get("sid") != sid || own.Get("transport") != "websocket" || own.Get("t") != "z" {
			t.Fatalf("%q with sid %q became %q", handshake, sid, got)
		}
	})
}
