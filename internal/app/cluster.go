package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/holdfast/holdfast/internal/cluster"
	"github.com/holdfast/holdfast/internal/config"
)

// redisCheck is the timeout for checking at the start whether Redis accepts this client.
const redisCheck = 2 * time.Second

// joinCluster makes the proxy one of several replicas, if that is configured. Others can reach it
// after start. The caller must call leave when all clients are gone. t is what another process
// handed over, or nil.
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
	hosts, listed := book.(cluster.Hosts)
	return ln, cluster.Options{
		Name: k.Name, Advertise: advertise, Keys: keys, Book: book, Fixed: listed && hosts.Fixed(),
	}, nil
}

func clusterKeys(k config.Cluster) (*cluster.Keys, error) {
	secrets, err := k.Secrets()
	if err != nil {
		return nil, err
	}
	return cluster.NewKeys(secrets)
}

// book returns the Book that finds other replicas. If Redis refuses this client, the configuration
// is wrong. If Redis is down, it is not: Redis may start later.
func (in *instance) book(k config.Cluster) (cluster.Book, error) {
	if !k.Redis() {
		return cluster.Hosts{Addrs: k.Peers}, nil
	}
	book, unavailable, err := openRedis(context.Background(), k, in.sources, in.log)
	if err != nil {
		return nil, err
	}
	if unavailable != nil {
		in.log.Warn("Redis is not available yet: replicas find each other when it is", "error", unavailable)
	}
	return book, nil
}

// openRedis asks Redis once whether it accepts this client. err is a mistake in the configuration;
// unavailable says that Redis does not answer.
func openRedis(ctx context.Context, k config.Cluster, sources config.Sources, log *slog.Logger) (book *cluster.Redis, unavailable, err error) {
	const allowed = "a redis:// URL that Redis accepts"
	if book, err = cluster.NewRedis(k.Peers, k.Name, log); err != nil {
		return nil, nil, sources.Invalid("cluster.peers", oneLine(err.Error()), allowed)
	}
	ctx, cancel := context.WithTimeout(ctx, redisCheck)
	defer cancel()
	unavailable = book.Check(ctx)
	if _, refused := errors.AsType[*cluster.RefusedError](unavailable); refused {
		book.Close()
		return nil, nil, sources.Invalid("cluster.peers", "Redis: "+oneLine(unavailable.Error()), allowed)
	}
	return book, unavailable, nil
}

// advertised returns where other replicas dial this one: as configured, or the address that peers
// would see.
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
	own, err := addressTowards(append(peerTargets(k), anywhere...))
	if err != nil {
		return "", fmt.Errorf("no address of this machine is known: %w", err)
	}
	// Redis is here, or a tunnel to it, and the other replicas may be elsewhere.
	if k.Redis() && own.IsLoopback() {
		if outside, err := addressTowards(anywhere); err == nil {
			own = outside
		}
	}
	return netip.AddrPortFrom(own, at.Port()).String(), nil
}

// anywhere are reserved addresses that no machine has. The route to them is the default route.
var anywhere = []string{"192.0.2.1:9", "[2001:db8::1]:9"}

// peerTargets returns what this machine connects to because of cluster.peers, as host:port.
func peerTargets(k config.Cluster) []string {
	if !k.Redis() {
		return slices.Clone(k.Peers)
	}
	var targets []string
	for _, text := range k.Peers {
		if u, err := url.Parse(text); err == nil {
			targets = append(targets, net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "6379")))
		}
	}
	return targets
}

// addressTowards returns the address of this machine that a target would see. It uses the first
// target with a route. A name may be unknown while Redis is down.
func addressTowards(targets []string) (addr netip.Addr, err error) {
	for _, target := range targets {
		var conn net.Conn
		if conn, err = net.Dial("udp", target); err != nil { // sends nothing
			continue
		}
		own, parseErr := netip.ParseAddrPort(conn.LocalAddr().String())
		conn.Close()
		if parseErr == nil {
			return own.Addr().Unmap(), nil
		}
		err = parseErr
	}
	return addr, err
}

// checkPeers asks every other replica once, for -check. The error is a mistake in the
// configuration: holdfast would not start with it.
func (c command) checkPeers(ctx context.Context, k config.Cluster, sources config.Sources) error {
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
	addrs, err := peerAddresses(ctx, k, sources)
	switch {
	case errors.Is(err, config.ErrInvalid):
		return err
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

func peerAddresses(ctx context.Context, k config.Cluster, sources config.Sources) ([]string, error) {
	if !k.Redis() {
		return cluster.Hosts{Addrs: k.Peers}.Addresses(ctx)
	}
	book, unavailable, err := openRedis(ctx, k, sources, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer book.Close()
	if unavailable != nil {
		return nil, unavailable
	}
	return book.Addresses(ctx)
}
