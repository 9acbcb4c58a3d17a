package limit

import (
	"net/netip"
	"testing"
)

func TestIPv6AddressesCountByTheirNetwork(t *testing.T) {
	tests := []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true},
		{"2001:db8:0:1::1", "2001:db8:0:2::1", false},
		{"fe80::1%eth0", "fe80::2%eth1", true},
	}
	for _, tt := range tests {
		limit := NewAddressRate(1)
		a, b := netip.MustParseAddr(tt.a), netip.MustParseAddr(tt.b)
		for limit.Allow(a) {
		}
		if same := limit.Exhausted(b) && !limit.Allow(b); same != tt.same {
			t.Errorf("%s counts for %s: %v, want %v", tt.a, tt.b, same, tt.same)
		}
	}
}

func TestClientsWithoutAnAddressAreNotLimited(t *testing.T) {
	limit := NewAddressRate(1)
	for range 100 {
		if !limit.Allow(netip.Addr{}) || limit.Exhausted(netip.Addr{}) {
			t.Fatal("limited")
		}
	}
}
