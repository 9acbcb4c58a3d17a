//go:build linux

package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"text/template"
	"time"
)

// target is what a scenario runs against: a server, and a proxy in front of it or
// none.
type target struct {
	name    string
	proxy   proxyStarter  // nil: the clients connect to the server
	server  serverStarter // nil: the synthetic server
	recover bool          // with recovery, by the proxy or the server
}

type (
	proxyStarter  func(ctx context.Context, e *env, dir string, upstream netip.AddrPort) (*proxy, error)
	serverStarter func(ctx context.Context, e *env, dir string, interval time.Duration) (*backend, error)
)

// Names of targets, as in -targets.
const (
	directName   = "direct"
	rawName      = "raw"
	nginxName    = "nginx"
	haproxyName  = "haproxy"
	holdfastName = "holdfast"
)

// The proxies that targets can have.
var proxies = map[string]proxyStarter{
	directName:   nil,
	rawName:      startRawCopy,
	nginxName:    startNginx,
	haproxyName:  startHAProxy,
	holdfastName: startHoldfast,
}

// proxy is a running proxy.
type proxy struct {
	*child
	addr netip.AddrPort
	pids []int
	edge netip.AddrPort // of another replica; invalid if there is none
	more *proxy         // the other replica
	dir  string         // of startReporting
}

func (p *proxy) stop() {
	p.child.stop()
	if p.more != nil {
		p.more.stop()
	}
}

var (
	//go:embed nginx.conf.tmpl
	nginxConf string
	//go:embed haproxy.cfg.tmpl
	haproxyConf string
	//go:embed holdfast.yaml.tmpl
	holdfastConf string

	templates = template.Must(template.New("nginx.conf").Parse(nginxConf))
	_         = template.Must(templates.New("haproxy.cfg").Parse(haproxyConf))
	_         = template.Must(templates.New("holdfast.yaml").Parse(holdfastConf))
)

// proxyConf is the data for the templates.
type proxyConf struct {
	Dir            string // for files
	Port           uint16
	Upstream       netip.AddrPort
	Workers        int // nginx's processes, HAProxy's threads
	MaxConnections int // of each side
	Root           bool
}

// BothSides returns how many connections MaxConnections clients need.
func (c proxyConf) BothSides() int { return 2 * c.MaxConnections }

// configure writes a proxy's configuration to a file in dir.
func configure(name, dir string, c proxyConf) (path string, err error) {
	var text bytes.Buffer
	if err := templates.ExecuteTemplate(&text, name, c); err != nil {
		return "", err
	}
	path = filepath.Join(dir, name)
	return path, os.WriteFile(path, text.Bytes(), 0o600)
}

func startRawCopy(ctx context.Context, e *env, _ string, upstream netip.AddrPort) (*proxy, error) {
	c, err := startChild("raw copy", exec.Command(e.self, rawCopyArg, upstream.String()))
	if err != nil {
		return nil, err
	}
	addr, err := c.port(ctx)
	if err != nil {
		c.stop()
		return nil, err
	}
	return &proxy{child: c, addr: addr, pids: []int{c.pid()}}, nil
}

func startNginx(ctx context.Context, e *env, dir string, upstream netip.AddrPort) (*proxy, error) {
	return startProxy(ctx, e, "nginx.conf", dir, upstream, e.opts.nginxWorkers, func(path string) *exec.Cmd {
		return exec.Command(e.opts.nginx, "-e", "stderr", "-p", dir, "-c", path)
	})
}

func startHAProxy(ctx context.Context, e *env, dir string, upstream netip.AddrPort) (*proxy, error) {
	return startProxy(ctx, e, "haproxy.cfg", dir, upstream, e.opts.haproxyThreads, func(path string) *exec.Cmd {
		return exec.Command(e.opts.haproxy, "-db", "-q", "-f", path)
	})
}

func startHoldfast(ctx context.Context, e *env, dir string, upstream netip.AddrPort) (*proxy, error) {
	return startProxy(ctx, e, "holdfast.yaml", dir, upstream, 0, func(path string) *exec.Cmd {
		cmd := exec.Command(e.opts.holdfast, "-config", path)
		cmd.Env = holdfastEnviron()
		if e.opts.profile != "" {
			cmd.Env = append(cmd.Env, "HOLDFAST_ADMIN_PROFILING=true", "HOLDFAST_ADMIN_LISTEN=unix://"+adminSocket(dir))
		}
		return cmd
	})
}

// startReporting starts a holdfast with an admin listener.
func startReporting(ctx context.Context, e *env, dir string, upstream netip.AddrPort) (*proxy, error) {
	p, err := startProxy(ctx, e, "holdfast.yaml", dir, upstream, 0, func(path string) *exec.Cmd {
		cmd := exec.Command(e.opts.holdfast, "-config", path)
		cmd.Env = append(holdfastEnviron(), "HOLDFAST_ADMIN_LISTEN=unix://"+adminSocket(dir))
		return cmd
	})
	if err == nil {
		p.dir = dir
	}
	return p, err
}

// errNotReady is wrapped if a proxy does not serve after its start.
var errNotReady = errors.New("does not serve")

// startProxy starts a proxy on a free port. If another process takes the port
// first, it tries again with another one.
func startProxy(ctx context.Context, e *env, conf, dir string, upstream netip.AddrPort, workers int,
	command func(path string) *exec.Cmd,
) (*proxy, error) {
	var err error
	for range 3 {
		var p *proxy
		if p, err = tryProxy(ctx, e, conf, dir, upstream, workers, command); err == nil || !errors.Is(err, errNotReady) {
			return p, err
		}
	}
	return nil, err
}

func tryProxy(ctx context.Context, e *env, conf, dir string, upstream netip.AddrPort, workers int,
	command func(path string) *exec.Cmd,
) (*proxy, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	path, err := configure(conf, dir, proxyConf{
		Dir: dir, Port: addr.Port(), Upstream: upstream, Workers: workers,
		MaxConnections: e.fileLimit/2 - 50, Root: os.Geteuid() == 0,
	})
	if err != nil {
		return nil, err
	}
	c, err := startChild(conf, command(path))
	if err != nil {
		return nil, err
	}
	processes := 1
	if conf == "nginx.conf" {
		processes += workers
	}
	pids, err := c.ready(ctx, addr, processes)
	if err != nil {
		c.stop()
		return nil, err
	}
	return &proxy{child: c, addr: addr, pids: pids}, nil
}

// readyTimeout is how long a proxy may take to start.
const readyTimeout = 10 * time.Second

// ready waits until the process serves at addr and consists of the expected number
// of processes, itself included. It returns them.
func (c *child) ready(ctx context.Context, addr netip.AddrPort, processes int) (pids []int, err error) {
	deadline := time.Now().Add(readyTimeout)
	for {
		if err := c.alive(); err != nil {
			return nil, fmt.Errorf("%w: %w", errNotReady, err)
		}
		pids = append([]int{c.pid()}, childrenOf(c.pid())...)
		nc, err := net.DialTimeout("tcp4", addr.String(), time.Second)
		if err == nil {
			nc.Close()
			if len(pids) == processes {
				return pids, nil
			}
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%s: %w at %v, with %d of %d processes%s", c.name, errNotReady, addr, len(pids), processes, c.stderr)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// port returns the address of a child that prints its port.
func (c *child) port(ctx context.Context) (netip.AddrPort, error) {
	addrs, err := c.ports(ctx)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return addrs[0], nil
}

// ports returns the addresses of a child that prints its ports.
func (c *child) ports(ctx context.Context) (addrs []netip.AddrPort, err error) {
	line, err := c.answer(ctx)
	if err != nil {
		return nil, err
	}
	for word := range strings.SplitSeq(line, " ") {
		n, err := strconv.ParseUint(word, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("%s printed %q, not its port%s", c.name, line, c.stderr)
		}
		addrs = append(addrs, loopback(uint16(n)))
	}
	return addrs, nil
}

func loopback(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

// freeAddr finds a free port below the range that the kernel uses for outgoing
// connections, because there will be many of those.
func freeAddr() (netip.AddrPort, error) {
	for range 100 {
		addr := loopback(uint16(16384 + rand.IntN(16000)))
		ln, err := net.Listen("tcp4", addr.String())
		if err == nil {
			ln.Close()
			return addr, nil
		}
	}
	return netip.AddrPort{}, errors.New("no free port")
}

// backend is a running server that accepts the commands of serverMain.
type backend struct {
	*child
	addr netip.AddrPort
}

func startServer(ctx context.Context, e *env, _ string, interval time.Duration) (*backend, error) {
	return newBackend(ctx, "server", exec.Command(e.self, serverArg, "-ping-interval", interval.String()))
}

func newBackend(ctx context.Context, name string, cmd *exec.Cmd) (*backend, error) {
	b, _, err := newBackendWithPorts(ctx, name, cmd)
	return b, err
}

// newBackendWithPorts starts a server that may listen on several ports.
func newBackendWithPorts(ctx context.Context, name string, cmd *exec.Cmd) (b *backend, ports []string, err error) {
	c, err := startChild(name, cmd)
	if err != nil {
		return nil, nil, err
	}
	addrs, err := c.ports(ctx)
	if err != nil {
		c.stop()
		return nil, nil, err
	}
	for _, a := range addrs {
		ports = append(ports, strconv.Itoa(int(a.Port())))
	}
	return &backend{c, addrs[0]}, ports, nil
}

// broadcast returns after everything was written.
func (b *backend) broadcast(ctx context.Context, count, size int) error {
	answer, err := b.ask(ctx, fmt.Sprintf("broadcast %d %d", count, size))
	if err == nil && answer != "done" {
		err = fmt.Errorf("the server answered %q", answer)
	}
	return err
}

func (b *backend) stats(ctx context.Context) (stats, error) {
	answer, err := b.ask(ctx, "stats")
	if err != nil {
		return stats{}, err
	}
	return parseStats(answer)
}

// cores is the default number of workers and threads: 2, as on a small machine, or 1.
func cores() int { return min(2, runtime.NumCPU()) }
