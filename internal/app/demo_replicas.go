package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/holdfast/holdfast/internal/config"
)

// demoReplicas are several holdfasts in this process, behind a balancer that deals out connections
// in turn.
type demoReplicas struct {
	version string
	log     *slog.Logger
	n       int
	ln      net.Listener // the balancer's
	addrs   []string     // of the replicas

	mu   sync.Mutex // guards the fields below
	next int
}

// start starts the replicas and the balancer.
func (d *demoReplicas) start(ctx context.Context, _, upstreamURL string) (addr string, stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	stop = func() {
		cancel()
		done.Wait()
	}
	peers, err := freeAddresses(d.n)
	if err != nil {
		cancel()
		return "", nil, err
	}
	var joins []func()
	for _, peer := range peers {
		join, err := d.startOne(ctx, &done, peer, peers, upstreamURL)
		if err != nil {
			stop()
			return "", nil, err
		}
		joins = append(joins, join)
	}
	// Now that all peer ports are open: otherwise they log that they cannot connect.
	for _, join := range joins {
		join()
	}
	done.Go(func() { d.balance(ctx) }) // ends with ctx
	time.Sleep(demoSettle)
	return reachable(d.ln.Addr()), stop, nil
}

// demoSettle is how long the replicas have to find each other.
const demoSettle = 300 * time.Millisecond

// startOne starts a replica. It looks for the others when join is called.
func (d *demoReplicas) startOne(ctx context.Context, done *sync.WaitGroup, peer string, peers []string, upstreamURL string) (join func(), err error) {
	cfg := config.Default()
	cfg.Upstream.URL = config.URLs{upstreamURL}
	cfg.Shutdown.DrainTimeout = 0
	cfg.Cluster.Listen, cfg.Cluster.Peers, cfg.Cluster.Secret = peer, peers, "the secret of replicas that live in one process"
	in, err := newInstance(d.version, cfg, nil, d.log)
	if err != nil {
		return nil, err
	}
	join, leave, err := in.joinCluster(nil)
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		leave()
		return nil, err
	}
	d.addrs = append(d.addrs, ln.Addr().String())
	done.Go(func() { // ends with ctx
		defer leave()
		defer ln.Close()
		if err := in.serveClients(ctx, ln); err != nil {
			d.log.Error("one of the demo's replicas failed", "error", err)
		}
	})
	return join, nil
}

// freeAddresses returns addresses on which nothing listens.
func freeAddresses(n int) ([]string, error) {
	var addrs []string
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close() // only now, so that all differ
		addrs = append(addrs, ln.Addr().String())
	}
	return addrs, nil
}

// balance passes connections on, each to the next replica.
func (d *demoReplicas) balance(ctx context.Context) {
	defer context.AfterFunc(ctx, func() { d.ln.Close() })()
	for {
		near, err := d.ln.Accept()
		if err != nil {
			return
		}
		d.mu.Lock()
		addr := d.addrs[d.next%len(d.addrs)]
		d.next++
		d.mu.Unlock()
		go pass(ctx, near, addr) // ends with the connection
	}
}

func pass(ctx context.Context, near net.Conn, addr string) {
	defer near.Close()
	far, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer far.Close()
	defer context.AfterFunc(ctx, func() { near.Close(); far.Close() })()
	go func() { // ends with the connection
		defer near.Close()
		_, _ = io.Copy(near, far)
	}()
	_, _ = io.Copy(far, near)
}

// where names the replica that the latest connection went to.
func (d *demoReplicas) where() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return fmt.Sprintf("replica %d of %d", (d.next-1)%len(d.addrs)+1, len(d.addrs))
}
