package cluster

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// Check dials each of the addresses as a replica would, and returns what answers there.
func Check(ctx context.Context, keys *Keys, name string, addrs []string) []PeerStatus {
	list := make([]PeerStatus, len(addrs))
	var wg sync.WaitGroup
	for i, addr := range addrs {
		wg.Go(func() { list[i] = checkOne(ctx, keys, name, addr) })
	}
	wg.Wait()
	return list
}

func checkOne(ctx context.Context, keys *Keys, name, addr string) PeerStatus {
	p := PeerStatus{Addr: addr}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		p.Problem = shownError(err)
		return p
	}
	begin := time.Now()
	c, err := connect(ctx, nc, keys, hello{ID: NewID(), Name: name}, true)
	if err != nil {
		p.Problem = shownError(err)
		return p
	}
	p.ID, p.RoundTrip = c.peer.ID, time.Since(begin)
	if c.peer.Name != name {
		p.Problem = fmt.Sprintf("it belongs to the cluster %q", c.peer.Name)
	}
	c.socket.Close()
	return p
}

// Addresses looks the addresses up once.
func (b Hosts) Addresses(ctx context.Context) (addrs []string, err error) {
	if b.Lookup == nil {
		b.Lookup = net.DefaultResolver.LookupHost
	}
	for _, addr := range b.Addrs {
		entries, err := b.lookup(ctx, addr)
		if err != nil {
			return addrs, err
		}
		for _, e := range entries {
			addrs = append(addrs, e.Addr)
		}
	}
	return addrs, nil
}

// Addresses reads the entries once.
func (r *Redis) Addresses(ctx context.Context) (addrs []string, err error) {
	clock, err := r.time(ctx)
	if err != nil {
		return nil, err
	}
	fields, err := r.client.HGetAll(ctx, r.key).Result()
	if err != nil {
		return nil, r.explain(err)
	}
	for _, e := range r.current(ctx, fields, clock.UnixMilli()) {
		addrs = append(addrs, e.Addr)
	}
	slices.SortFunc(addrs, strings.Compare)
	return addrs, nil
}
