package app

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/internal/config"
)

// redisCheck limits the question at the start whether Redis accepts this client.
const redisCheck = 2 * time.Second

// joinCluster makes the proxy one of several replicas, if that is configured. Others can reach it after start,
// and leave must be called when all clients are gone. t is what another process has handed over, or nil.
func (in *instance) joinCluster(t *takeover) (start, leave func(), err error) {
	k := in.cfg.Cluster
	if !k.Enabled() {
		return func() {}, func() {}, nil
	}
	ln, opts, err := in.clusterOptions(k)
	if err != nil {
		return nil, nil, err
	}
	opts.ID = cluster.NewID()
	if t != nil && cluster.ValidID(string(t.summary.Process.Owner)) {
		opts.ID = string(t.summary.Process.Owner) // the sessions' pids name it
	}
	node := in.proxy.JoinCluster(opts)
	in.node = node
	start = func() {
		node.Start(ln)
		in.log.Info("replica is ready for others", "id", opts.ID, "listen", ln.Addr().String(), "advertise", opts.Advertise)
	}
	return start, func() { node.Close() }, nil
}

// clusterOptions opens the peer port, and returns what configures a Node.
func (in *instance) clusterOptions(k config.Cluster) (ln net.Listener, opts cluster.Options, err error) {
	keys, err := clusterKeys(k)
	if err != nil {
		return nil, opts, err
	}
	if ln, err = in.sockets.listen(peerSocket, k.Listen); err != nil {
		return nil, opts, in.sources.Invalid("cluster.listen", err.Error(), "a free address of this machine")
	}
	advertise, err := advertised(k, ln.Addr())
	if err != nil {
		ln.Close()
		return nil, opts, in.sources.Invalid("cluster.advertise", err.Error(), "host:port, where other replicas dial this one")
	}
	book, err := in.book(k)
	if err != nil {
		ln.Close()
		return nil, opts, err
	}
	return ln, cluster.Options{Name: k.Name, Advertise: advertise, Keys: keys, Book: book}, nil
}

func clusterKeys(k config.Cluster) (*cluster.Keys, error) {
	secrets, err := k.Secrets()
	if err != nil {
		return nil, err
	}
	return cluster.NewKeys(secrets)
}

// book returns where the other replicas are found. Redis that refuses this client is a mistake in the
// configuration. Redis that is down is not: it may come later.
func (in *instance) book(k config.Cluster) (cluster.Book, error) {
	if !k.Redis() {
		return cluster.Hosts{Addrs: k.Peers}, nil
	}
	book, err := cluster.NewRedis(k.Peers, k.Name)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), redisCheck)
		defer cancel()
		if err = book.Check(ctx); err != nil && !cluster.Refused(err) {
			in.log.Warn("Redis does not answer: other replicas are found when it does", "error", err)
			err = nil
		}
	}
	if err != nil {
		return nil, in.sources.Invalid("cluster.peers", fmt.Sprintf("Redis: %v", err), "a redis:// URL that Redis accepts")
	}
	return book, nil
}

// advertised returns where other replicas dial this one: as configured, or the address that peers would see.
func advertised(k config.Cluster, listening net.Addr) (string, error) {
	if k.Advertise != "" {
		return k.Advertise, nil
	}
	at, err := netip.ParseAddrPort(listening.String())
	if err != nil {
		return "", err
	}
	if !at.Addr().IsUnspecified() {
		return at.String(), nil
	}
	target := k.Peers[0]
	if u, err := url.Parse(target); err == nil && k.Redis() {
		target = u.Host
		if u.Port() == "" {
			target = net.JoinHostPort(u.Hostname(), "6379")
		}
	}
	conn, err := net.Dial("udp", target) // sends nothing
	if err != nil {
		return "", fmt.Errorf("no address of this machine is known to reach %s: %w", target, err)
	}
	defer conn.Close()
	own, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return "", err
	}
	return netip.AddrPortFrom(own.Addr().Unmap(), at.Port()).String(), nil
}

// checkPeers asks every other replica once, for -check.
func (c command) checkPeers(ctx context.Context, k config.Cluster) error {
	if !k.Enabled() {
		return nil
	}
	keys, err := clusterKeys(k)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*redisCheck)
	defer cancel()
	var b strings.Builder
	b.WriteString("\n# Other replicas, asked just now:\n")
	addrs, err := peerAddresses(ctx, k)
	switch {
	case err != nil:
		fmt.Fprintf(&b, "#   they cannot be looked up: %s\n", oneLine(err.Error()))
	case len(addrs) == 0:
		b.WriteString("#   none is known\n")
	}
	for _, p := range cluster.Check(ctx, keys, k.Name, addrs) {
		answer := fmt.Sprintf("replica %s (%v)", p.ID, p.RoundTrip.Round(time.Millisecond))
		if p.Problem != "" {
			answer = oneLine(p.Problem)
		}
		fmt.Fprintf(&b, "#   %s: %s\n", p.Addr, answer)
	}
	_, err = io.WriteString(c.stdout, b.String())
	return err
}

func peerAddresses(ctx context.Context, k config.Cluster) ([]string, error) {
	if !k.Redis() {
		return cluster.Hosts{Addrs: k.Peers}.Addresses(ctx)
	}
	book, err := cluster.NewRedis(k.Peers, k.Name)
	if err != nil {
		return nil, err
	}
	return book.Addresses(ctx)
}
