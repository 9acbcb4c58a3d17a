package httpmsg

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// TrustedProxies are the networks of proxies whose forwarding headers are trusted.
type TrustedProxies []netip.Prefix

// ClientAddress returns the address of the peer, or the zero Addr on a Unix socket. If the peer is
// a trusted proxy, it returns the last address in X-Forwarded-For that is not a trusted proxy. The
// client may have forged earlier ones.
func (t TrustedProxies) ClientAddress(r *http.Request) netip.Addr {
	peer := hostAddr(r.RemoteAddr)
	if !t.Contains(peer) {
		return peer
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		addr, ok := parseHop(strings.TrimSpace(hop))
		if !ok {
			break
		}
		peer = addr
		if !t.Contains(peer) {
			break
		}
	}
	return peer
}

// parseHop parses an address in X-Forwarded-For. Some proxies add a port, and some write IPv6
// addresses in brackets.
func parseHop(hop string) (addr netip.Addr, ok bool) {
	if addr := hostAddr(hop); addr.IsValid() {
		return addr, true
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(hop, "["), "]"))
	return addr.Unmap(), err == nil
}

func hostAddr(hostPort string) netip.Addr {
	ap, err := netip.ParseAddrPort(hostPort)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// Contains reports whether an address is that of a trusted proxy.
func (t TrustedProxies) Contains(addr netip.Addr) bool {
	for _, p := range t {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
