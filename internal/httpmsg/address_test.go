package httpmsg

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

// trusting returns the given trusted proxies.
func trusting(prefixes ...string) (t TrustedProxies) {
	for _, p := range prefixes {
		t = append(t, netip.MustParsePrefix(p))
	}
	return t
}

func TestClientAddress(t *testing.T) {
	tests := []struct {
		name, peer string
		forwarded  []string
		want       string
	}{
		{"nothing forwarded", "192.0.2.9:1", nil, "192.0.2.9"},
		{"an untrusted peer is not believed", "192.0.2.9:1", []string{"198.51.100.1"}, "192.0.2.9"},
		{"a trusted one is", "10.0.0.1:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"what the client wrote itself is not", "10.0.0.1:1", []string{"203.0.113.5, 198.51.100.1"}, "198.51.100.1"},
		{"over several proxies", "10.0.0.1:1", []string{"203.0.113.5, 198.51.100.1, 10.0.0.2"}, "198.51.100.1"},
		{"in several lines", "10.0.0.1:1", []string{"203.0.113.5", "198.51.100.1", "10.0.0.2"}, "198.51.100.1"},
		{"only proxies", "10.0.0.1:1", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"garbage ends the search", "10.0.0.1:1", []string{"198.51.100.1, <script>, 10.0.0.2"}, "10.0.0.2"},
		{"garbage from the nearest", "10.0.0.1:1", []string{"198.51.100.1, unknown"}, "10.0.0.1"},
		{"empty", "10.0.0.1:1", []string{""}, "10.0.0.1"},
		{"with a port, as some balancers write it", "10.0.0.1:1", []string{"198.51.100.1:4711"}, "198.51.100.1"},
		{"IPv6 with a port", "10.0.0.1:1", []string{"[2001:db8::1]:4711"}, "2001:db8::1"},
		{"IPv6 in brackets", "10.0.0.1:1", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"IPv4 in IPv6", "[::ffff:10.0.0.1]:1", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		{"a Unix socket", "@", []string{"198.51.100.1"}, "invalid IP"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &http.Request{RemoteAddr: tt.peer, Header: http.Header{"X-Forwarded-For": tt.forwarded}}
			if got := trusting("10.0.0.0/8").ClientAddress(r).String(); got != tt.want {
				t.Errorf("clientAddress of %s, forwarded for %q, is %s, want %s", tt.peer, tt.forwarded, got, tt.want)
			}
		})
	}
}

// Whatever the headers say, the client's address is the peer's or one that a trusted peer reports.
// Claims of an untrusted peer never reach the upstream.
func FuzzForwarded(f *testing.F) {
	for _, seed := range []string{"198.51.100.1", "a, 10.0.0.1", "[::1]:99999", "::1%zone", ",,,", "1.2.3.4:", strings.Repeat("10.0.0.1,", 500), "\x00\xff"} {
		f.Add("X-Forwarded-For", seed, true)
		f.Add("x_forwarded_for", seed, false)
		f.Add("X-Forwarded-Host", seed, false)
		f.Add("Connection", "X-Forwarded-For, X-Real-Ip", true)
	}
	f.Fuzz(func(t *testing.T, name, value string, fromProxy bool) {
		peer := netip.MustParseAddr("192.0.2.9")
		if fromProxy {
			peer = netip.MustParseAddr("10.0.0.1")
		}
		s := trusting("10.0.0.0/8")
		h := http.Header{}
		h.Add(name, value)
		r := &http.Request{RemoteAddr: peer.String() + ":1", Host: "app.test", Header: h}
		addr := s.ClientAddress(r)
		if !addr.IsValid() || !fromProxy && addr != peer {
			t.Errorf("client's address is %s, the peer's %s", addr, peer)
		}
		out := Without(h, NotForwarded)
		s.SetForwarded(out, r)
		all := out.Values("X-Forwarded-For")
		if len(all) != 1 || !strings.HasSuffix(all[0], peer.String()) {
			t.Errorf("X-Forwarded-For %q does not end with the peer", all)
		}
		for name, values := range out {
			ours := name == "X-Forwarded-For" || name == "X-Forwarded-Proto" || name == "X-Forwarded-Host"
			if !fromProxy && IsForwarding(strings.ReplaceAll(name, "_", "-")) && !ours {
				t.Errorf("%s: %q passes", name, values)
			}
		}
		if !fromProxy && (all[0] != peer.String() || out.Get("X-Forwarded-Host") != "app.test" || out.Get("X-Forwarded-Proto") != "http") {
			t.Errorf("claims pass: %v", out)
		}
	})
}
