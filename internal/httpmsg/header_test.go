package httpmsg

import (
	"fmt"
	"net/http"
	"testing"
)

func TestDropCookies(t *testing.T) {
	for _, tt := range []struct{ before, after []string }{
		{nil, nil},
		{[]string{"a=1; b=2"}, []string{"a=1; b=2"}},
		{[]string{"io=abc"}, nil},
		{[]string{"a=1; io=abc; b=2"}, []string{"a=1; b=2"}},
		{[]string{"io=abc; a=1"}, []string{"a=1"}},
		{[]string{"io=1;io=2", " x = y "}, []string{" x = y "}},
		{[]string{"radio=1; IO=2; io"}, []string{"radio=1; IO=2"}},
	} {
		h := http.Header{}
		if tt.before != nil {
			h["Cookie"] = tt.before
		}
		DropCookies(h, []string{"io"})
		if got := h["Cookie"]; fmt.Sprint(got) != fmt.Sprint(tt.after) || (got == nil) != (tt.after == nil) {
			t.Errorf("%q becomes %q, want %q", tt.before, got, tt.after)
		}
	}
	h := http.Header{"Cookie": {"io=1"}}
	DropCookies(h, nil)
	if h.Get("Cookie") != "io=1" {
		t.Error("dropped a cookie that is not named")
	}
}

func TestWithoutCookie(t *testing.T) {
	for in, want := range map[string]string{
		"io=abc":            "",
		"a=1; io=abc; b=2":  "a=1; b=2",
		"a=1; ioo=x; xio=y": "a=1; ioo=x; xio=y",
		"":                  "",
	} {
		h := http.Header{"Cookie": {in}}
		if got := WithoutCookie(h, "io").Get("Cookie"); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
		if h.Get("Cookie") != in {
			t.Errorf("%q was changed", in)
		}
	}
}
