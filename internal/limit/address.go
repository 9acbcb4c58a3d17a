package limit

import (
	"net/netip"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

const (
	// rememberedAddresses bounds the addresses whose rates are known. The least recently seen one
	// is forgotten.
	rememberedAddresses = 65536
	// BurstSeconds is how many seconds' worth of a rate may come in one burst.
	BurstSeconds = 10
)

// AddressRate limits how often something happens for each client address. A nil AddressRate limits
// nothing. Clients without an address, behind a Unix socket, are never limited. It is safe for
// concurrent use.
type AddressRate struct {
	perSecond int
	buckets   *lru.Cache[netip.Addr, *rate.Limiter]
}

// NewAddressRate returns a limit of perSecond events for each address, or nil if perSecond is 0 or
// less.
func NewAddressRate(perSecond int) *AddressRate {
	if perSecond <= 0 {
		return nil
	}
	buckets, err := lru.New[netip.Addr, *rate.Limiter](rememberedAddresses)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return &AddressRate{perSecond, buckets}
}

func (a *AddressRate) bucket(addr netip.Addr) *rate.Limiter {
	addr = Network(addr)
	if b, ok := a.buckets.Get(addr); ok {
		return b
	}
	b := rate.NewLimiter(rate.Limit(a.perSecond), a.perSecond*BurstSeconds)
	if old, ok, _ := a.buckets.PeekOrAdd(addr, b); ok {
		return old
	}
	return b
}

// Allow counts one event and reports whether it is within the rate.
func (a *AddressRate) Allow(addr netip.Addr) bool {
	return a == nil || !addr.IsValid() || a.bucket(addr).Allow()
}

// Exhausted reports whether one more event would exceed the rate, without counting it.
func (a *AddressRate) Exhausted(addr netip.Addr) bool {
	return a != nil && addr.IsValid() && a.bucket(addr).Tokens() < 1
}

// networkBits is the part of an IPv6 address that tells clients apart: one customer has at least a
// /64.
const networkBits = 64

// Network returns the address that limits count for addr: an IPv4 address itself, or the /64 of an
// IPv6 address.
func Network(addr netip.Addr) netip.Addr {
	if !addr.Is6() {
		return addr
	}
	return netip.PrefixFrom(addr.WithZone(""), networkBits).Masked().Addr()
}
