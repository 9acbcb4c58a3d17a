package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/holdfast/holdfast/internal/config"
)

const (
	// lookupInterval is the time between two lookups.
	lookupInterval = 5 * time.Second
	// lookupTimeout bounds one lookup.
	lookupTimeout = 5 * time.Second
	// maxAddresses bounds how many addresses of a name are used.
	maxAddresses = 1000
)

// lookUpAt returns a function that asks the DNS server at an address, or the system's if that is
// "".
func lookUpAt(server string) func(ctx context.Context, host string) ([]netip.Addr, error) {
	r := net.DefaultResolver
	if server != "" {
		r = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, server)
		}}
	}
	return func(ctx context.Context, host string) ([]netip.Addr, error) { return r.LookupNetIP(ctx, "ip", host) }
}

// discover asks DNS for the servers at intervals until Close.
func (u *Upstream) discover() {
	known := make(map[string][]netip.Addr) // the last answer for each host name
	for first := true; ; first = false {
		_ = u.lookUp(known) // it is logged and counted
		if first {
			close(u.looked)
		}
		timer := time.NewTimer(lookupInterval)
		select {
		case <-timer.C:
		case <-u.relook:
		case <-u.background.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// lookUp asks for all names. A name whose lookup fails keeps the addresses of its last answer.
// lookUp returns the errors of all that failed.
func (u *Upstream) lookUp(known map[string][]netip.Addr) error {
	u.mu.Lock()
	urls := u.urls
	u.mu.Unlock()
	var targets []target
	var failed error
	names := make(map[string]bool)
	for _, text := range urls {
		host := config.HostName(text)
		if host == "" {
			targets = append(targets, targetOf(text))
			continue
		}
		if !names[host] {
			names[host] = true
			addrs, err := u.addresses(host)
			if err != nil {
				failed = errors.Join(failed, err)
			} else {
				known[host] = addrs
			}
		}
		for _, ip := range known[host] {
			targets = append(targets, targetOf(text).at(ip))
		}
	}
	if u.background.Err() != nil {
		return u.background.Err()
	}
	for host := range known {
		if !names[host] {
			delete(known, host)
		}
	}
	u.noteLookup(failed)
	u.setTargets(targets)
	return failed
}

// addresses looks one name up.
func (u *Upstream) addresses(host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(u.background, lookupTimeout)
	defer cancel()
	addrs, err := u.opts.LookUp(ctx, host)
	switch {
	case err != nil:
		return nil, err
	case len(addrs) == 0:
		return nil, fmt.Errorf("upstream: %s has no address", host)
	}
	addrs = slices.Clone(addrs)
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	return addrs[:min(len(addrs), maxAddresses)], nil
}

// noteLookup records how the lookups ended.
func (u *Upstream) noteLookup(err error) {
	u.mu.Lock()
	was := u.lookErr
	u.lookErr = err
	u.mu.Unlock()
	switch {
	case err != nil && was == nil:
		u.log.Warn("the upstream's servers cannot be looked up: the last answer stays in force", "error", err)
	case err == nil && was != nil:
		u.log.Info("the upstream's servers can be looked up again")
	}
	if err != nil && u.opts.LookupFailed != nil {
		u.opts.LookupFailed()
	}
}
