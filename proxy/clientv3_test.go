package proxy

import (
	"net/url"
	"strings"
	"testing"
)

func TestYeast(t *testing.T) {
	ordered := []string{"N000000", "PXyzA1b", "PXyzA1b.0", "PXyzA1b.1", "PXyzA1b.A", "PXyzA1b.10", "PXyzA1c", "PXyzA20", "Q000000.0"}
	for i := range ordered[1:] {
		a, ok := yeast(ordered[i])
		b, also := yeast(ordered[i+1])
		if !ok || !also || a.Cmp(b) > 0 {
			t.Errorf("%s is later than %s, or one cannot be read: %v, %v", ordered[i], ordered[i+1], ok, also)
		}
	}
	for _, no := range []string{"", "abc", "PXyzA1b!", "PXyz.A1b ", "N00000.0", "1700000000.5", strings.Repeat("N", 100)} {
		if n, ok := yeast(no); ok {
			t.Errorf("yeast(%q) = %v", no, n)
		}
	}
}

func TestOutdated(t *testing.T) {
	since, _ := yeast("PXyzA1b")
	k := &keyedClient{since: since}
	for query, want := range map[string]bool{
		"transport=polling&t=PXyzA1a":   true,
		"transport=polling&t=PXyzA1b.0": false,
		"transport=polling&t=PXyzA1c":   false,
		"transport=polling":             true,
		"transport=websocket":           false,
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if got := k.outdated(q); got != want {
			t.Errorf("outdated(%s) = %v, want %v", query, got, want)
		}
	}
	if (&keyedClient{}).outdated(url.Values{"transport": {"polling"}}) {
		t.Error("a request is outdated although the sid is new")
	}
}

func TestWithoutBase64(t *testing.T) {
	for in, want := range map[string]string{
		"EIO=3&transport=polling&b64=1&t=x": "EIO=3&transport=polling&t=x", "EIO=3": "EIO=3", "b64=1": "", "xb64=1&b642=1": "xb64=1&b642=1",
	} {
		if got := withoutBase64(in); got != want {
			t.Errorf("withoutBase64(%s) = %s, want %s", in, got, want)
		}
	}
}
