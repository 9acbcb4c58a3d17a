package cluster

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"
)

const (
	// lookupInterval is the time between two look-ups. Two replicas find each other with the next
	// look-up of either, which must be within five seconds, including the connection.
	lookupInterval = 4 * time.Second
	// retryInterval is the time between a look-up that failed and the next one: Redis that was down
	// knows no replica, until each has entered itself again.
	retryInterval = time.Second
	// soonest is the least time between two look-ups.
	soonest       = 500 * time.Millisecond
	lookupTimeout = 3 * time.Second
)

// Entry is a replica in a Book.
type Entry struct {
	ID   string // "" if the Book knows only addresses
	Addr string // host:port of its peer port
}

// Book knows the replicas of a cluster.
type Book interface {
	// Watch looks the replicas up again and again until ctx ends, and soon after each value from
	// now. It passes what it finds to found, or why that failed. It also makes self known, if
	// others find replicas through this Book.
	Watch(ctx context.Context, self Entry, now <-chan struct{}, found func([]Entry, error))
}

// poll calls lookup every lookupInterval until ctx ends. It calls it sooner after an error, and
// soon after each value from now.
func poll(ctx context.Context, now <-chan struct{}, lookup func(ctx context.Context) error) {
	for {
		began := time.Now()
		limited, cancel := context.WithTimeout(ctx, lookupTimeout)
		err := lookup(limited)
		cancel()
		wait := lookupInterval - time.Since(began)
		if err != nil {
			wait = retryInterval
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-now:
			select {
			case <-time.After(soonest - time.Since(began)):
			case <-ctx.Done():
			}
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// Hosts is a Book of addresses, each host:port. If the host is a name, all its addresses count, and
// they are looked up again and again: that of a headless service has all replicas.
type Hosts struct {
	Addrs []string
	// Lookup replaces the resolver, for tests.
	Lookup func(ctx context.Context, host string) ([]string, error)
}

// Fixed reports whether all addresses are IP addresses, so that they never change.
func (b Hosts) Fixed() bool {
	for _, addr := range b.Addrs {
		if _, err := netip.ParseAddrPort(addr); err != nil {
			return false
		}
	}
	return true
}

// Watch implements Book. A name that cannot be looked up keeps its last addresses.
func (b Hosts) Watch(ctx context.Context, _ Entry, now <-chan struct{}, found func([]Entry, error)) {
	if b.Lookup == nil {
		b.Lookup = net.DefaultResolver.LookupHost
	}
	last := make(map[string][]Entry)
	poll(ctx, now, func(ctx context.Context) error {
		var all []Entry
		var problems []error
		for _, addr := range b.Addrs {
			entries, err := b.lookup(ctx, addr)
			if err != nil {
				problems = append(problems, err)
				entries = last[addr]
			}
			last[addr] = entries
			all = append(all, entries...)
		}
		err := errors.Join(problems...)
		found(all, err)
		return err
	})
}

func (b Hosts) lookup(ctx context.Context, addr string) ([]Entry, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return []Entry{{Addr: addr}}, nil
	}
	hosts, err := b.Lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	slices.Sort(hosts)
	var entries []Entry
	for _, host := range slices.Compact(hosts) {
		entries = append(entries, Entry{Addr: net.JoinHostPort(host, port)})
	}
	return entries, nil
}
