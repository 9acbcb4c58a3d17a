package app

import (
	"net"
	"net/netip"
	"testing"

	"github.com/holdfast/holdfast/internal/config"
)

// A replica that listens on all addresses names the one that the others would see. A Redis on this
// machine, or a tunnel to one, does not show that the others are here too.
func TestAdvertisedAddress(t *testing.T) {
	outside, err := addressTowards(anywhere)
	if err != nil {
		outside = netip.MustParseAddr("127.0.0.1")
	}
	all := &net.TCPAddr{IP: net.IPv6unspecified, Port: 7400}
	for _, tt := range []struct {
		name      string
		peers     []string
		advertise string
		listening net.Addr
		want      string
	}{
		{"as configured", []string{"redis://127.0.0.1"}, "a:1", all, "a:1"},
		{"one address", []string{"redis://127.0.0.1"}, "", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 5), Port: 7400}, "127.0.0.5:7400"},
		{"Redis on this machine", []string{"redis://127.0.0.1"}, "", all, netip.AddrPortFrom(outside, 7400).String()},
		{"replicas on this machine", []string{"127.0.0.1:7401"}, "", all, "127.0.0.1:7400"},
		{"nothing is known", []string{"no-such-name.invalid:7400"}, "", all, netip.AddrPortFrom(outside, 7400).String()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "nothing is known" && err != nil {
				t.Skip("this machine has no other address")
			}
			got, err := advertised(config.Cluster{Peers: tt.peers, Advertise: tt.advertise}, tt.listening)
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}
