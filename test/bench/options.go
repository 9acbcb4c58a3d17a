//go:build linux

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// options are the command line's settings.
type options struct {
	scenarios, targets []string
	targetsGiven       bool // a missing target is then an error
	rounds, slowRounds int
	duration, warmup   time.Duration

	clients, inFlight, payload    int
	broadcastClients              int
	broadcastPayloads             []int
	idleClients                   int
	settle                        time.Duration
	connectClients, connectAtOnce int
	stormClients, stormMissed     int
	handoverClients               int

	holdfast, nginx, haproxy     string // paths; "" if there is none
	nginxWorkers, haproxyThreads int
	node, nodeModules            string
	json                         string
	profile                      string // a directory
	short                        bool
}

// shortValues are the defaults that -short changes.
var shortValues = map[string]string{
	"rounds":            "3",
	"slow-rounds":       "1",
	"duration":          "700ms",
	"warmup":            "150ms",
	"broadcast-clients": "500",
	"idle-clients":      "1000",
	"settle":            "3s",
	"connect-clients":   "1000",
	"storm-clients":     "1000",
	"handover-clients":  "1000",
}

// maxEventBytes bounds payloads. It is below the limit of every proxy and server.
const maxEventBytes = 512 << 10

// parseOptions parses the command line. It returns flag.ErrHelp after it has
// written the help to out.
func parseOptions(args []string, out io.Writer) (*options, error) {
	o := &options{}
	var scenarios, targets, payloads string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(out)
	f.Usage = func() { usage(f) }
	f.BoolVar(&o.short, "short", false, "run in about four minutes, with lower defaults for many flags")
	f.StringVar(&scenarios, "scenarios", strings.Join(groups, ","), "comma-separated scenarios; also single ones: broadcast-512, echo-1, echo-64, parked")
	f.StringVar(&targets, "targets", "direct,raw,nginx,haproxy,holdfast", "comma-separated targets")
	f.IntVar(&o.rounds, "rounds", 5, "number of rounds; each runs all targets in turn")
	f.IntVar(&o.slowRounds, "slow-rounds", 3, "upper limit of rounds for idle and storm")
	f.DurationVar(&o.duration, "duration", 3*time.Second, "echo, pipeline, broadcast: duration of one measurement")
	f.DurationVar(&o.warmup, "warmup", 500*time.Millisecond, "echo, pipeline, broadcast: warm-up before each measurement")
	f.IntVar(&o.clients, "clients", 64, "echo, pipeline: number of clients")
	f.IntVar(&o.inFlight, "in-flight", 32, "pipeline: events in flight per client")
	f.IntVar(&o.payload, "payload", 32, "echo, pipeline, idle: payload in bytes")
	f.IntVar(&o.broadcastClients, "broadcast-clients", 1000, "broadcast: number of clients")
	f.StringVar(&payloads, "broadcast-payloads", "32,512,16384", "broadcast: comma-separated payloads in bytes")
	f.IntVar(&o.idleClients, "idle-clients", 2000, "idle: number of clients")
	f.DurationVar(&o.settle, "settle", 6*time.Second, "idle: quiet time before memory is measured")
	f.IntVar(&o.connectClients, "connect-clients", 2000, "connect: number of connections")
	f.IntVar(&o.connectAtOnce, "connect-at-once", 16, "connect: connections opened concurrently")
	f.IntVar(&o.stormClients, "storm-clients", 2000, "storm: number of clients")
	f.IntVar(&o.stormMissed, "storm-missed", 50, "storm: events that each client misses")
	f.IntVar(&o.handoverClients, "handover-clients", 5000, "handover: number of clients; every second one is away")
	f.StringVar(&o.holdfast, "holdfast", "", "path of holdfast (default: built from this module)")
	f.StringVar(&o.nginx, "nginx", "nginx", "path of nginx")
	f.StringVar(&o.haproxy, "haproxy", "haproxy", "path of HAProxy")
	f.IntVar(&o.nginxWorkers, "nginx-workers", cores(), "number of nginx workers")
	f.IntVar(&o.haproxyThreads, "haproxy-threads", cores(), "number of HAProxy threads")
	f.StringVar(&o.node, "node", "node", "storm: path of Node.js, for real servers")
	f.StringVar(&o.nodeModules, "node-modules", "test/e2e/node_modules", "storm: directory with socket.io 4.5 and 4.8")
	f.StringVar(&o.json, "json", "", "write all figures of all rounds to this file")
	f.StringVar(&o.profile, "profile", "", "write CPU profiles of holdfast to this directory; test/bench/flame draws them")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	given := make(map[string]bool)
	f.Visit(func(fl *flag.Flag) { given[fl.Name] = true })
	if o.short {
		for name, value := range shortValues {
			if !given[name] {
				if err := f.Set(name, value); err != nil {
					return nil, err
				}
			}
		}
	}
	o.targetsGiven = given["targets"]
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected %q", f.Arg(0))
	}
	return o, o.complete(scenarios, targets, payloads)
}

func usage(f *flag.FlagSet) {
	p := printer{f.Output()}
	p.printf(`Measures what holdfast, HAProxy, nginx and a plain copy of bytes cost in front
of a Socket.IO server. test/bench/README.md says how to read the figures.

  go run ./test/bench -short
  go run ./test/bench -scenarios echo,broadcast -targets haproxy,holdfast -json out.json

HOLDFAST_ variables reach holdfast, so its settings can be compared:

  HOLDFAST_RECOVERY_MAX_DISCONNECTION_DURATION=0 go run ./test/bench -targets holdfast

`)
	f.PrintDefaults()
	names := slices.Sorted(maps.Keys(shortValues))
	for i, name := range names {
		names[i] = "-" + name + " " + shortValues[name]
	}
	p.printf("\n-short means %s.\n", strings.Join(names, " "))
}

// hasHoldfast reports whether holdfast is among the targets.
func (o *options) hasHoldfast() bool { return slices.Contains(o.targets, holdfastName) }

// complete splits lists and checks what was given.
func (o *options) complete(scenarios, targets, payloads string) error {
	for word := range strings.SplitSeq(payloads, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil {
			return fmt.Errorf("-broadcast-payloads: %q is no number", word)
		}
		o.broadcastPayloads = append(o.broadcastPayloads, n)
	}
	known := append(slices.Clone(groups), "echo-1", fmt.Sprintf("echo-%d", o.clients), "parked", "servers-echo", "servers-connect",
		"relay-1", fmt.Sprintf("relay-%d", o.clients), "relay-pipeline", "relay-idle", "relay-storm", "relay-polling")
	for _, n := range o.broadcastPayloads {
		known = append(known, fmt.Sprintf("broadcast-%d", n))
	}
	var err error
	if o.scenarios, err = parseList("-scenarios", scenarios, known); err != nil {
		return err
	}
	if o.targets, err = parseList("-targets", targets, slices.Sorted(maps.Keys(proxies))); err != nil {
		return err
	}
	if o.duration <= 0 || o.warmup < 0 || o.settle < 0 {
		return errors.New("-duration must be above 0, -warmup and -settle not below")
	}
	for name, n := range map[string]int{
		"-rounds": o.rounds, "-slow-rounds": o.slowRounds, "-clients": o.clients, "-in-flight": o.inFlight,
		"-broadcast-clients": o.broadcastClients, "-idle-clients": o.idleClients, "-connect-clients": o.connectClients,
		"-connect-at-once": o.connectAtOnce, "-storm-clients": o.stormClients, "-storm-missed": o.stormMissed,
		"-handover-clients": o.handoverClients,
		"-nginx-workers":    o.nginxWorkers, "-haproxy-threads": o.haproxyThreads,
	} {
		if n < 1 {
			return fmt.Errorf("%s must be 1 or more", name)
		}
	}
	for _, n := range append(o.broadcastPayloads, o.payload) {
		if n < 0 || n > maxEventBytes {
			return fmt.Errorf("a payload must be 0 to %d bytes", maxEventBytes)
		}
	}
	return nil
}

func parseList(name, list string, known []string) ([]string, error) {
	var words []string
	for word := range strings.SplitSeq(list, ",") {
		word = strings.TrimSpace(word)
		if !slices.Contains(known, word) {
			return nil, fmt.Errorf("%s: %q is none of %s", name, word, strings.Join(known, ", "))
		}
		if !slices.Contains(words, word) {
			words = append(words, word)
		}
	}
	return words, nil
}

// findPrograms looks for the proxies, and leaves out of the targets what is
// not there.
func (o *options) findPrograms(note func(format string, args ...any)) error {
	for name, path := range map[string]*string{nginxName: &o.nginx, haproxyName: &o.haproxy} {
		at := slices.Index(o.targets, name)
		if at < 0 {
			continue
		}
		given := *path
		if *path = findProgram(given); *path != "" {
			continue
		}
		if o.targetsGiven {
			return fmt.Errorf("%s is not here: no %s", name, given)
		}
		note("%s is not measured: it is not installed", name)
		o.targets = slices.Delete(o.targets, at, at+1)
	}
	o.node = findProgram(o.node)
	return nil
}

// findProgram looks where daemons are installed, too.
func findProgram(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil && !strings.Contains(name, "/") {
			return path
		}
	}
	return ""
}

// fit lowers numbers of clients to what the limit of open files allows, and reports it.
func (o *options) fit(fileLimit int, note func(format string, args ...any)) {
	const own = 300 // listeners, logs, what the runtime has open; and connect's first clients
	for _, c := range []struct {
		name  string
		n     *int
		files int // of one client, in the process that has most
	}{
		{"-clients", &o.clients, 2},
		{"-broadcast-clients", &o.broadcastClients, 2},
		{"-idle-clients", &o.idleClients, 2},
		{"-connect-clients", &o.connectClients, 2},
		// While a client comes back, holdfast has its old link and a new one. On a busy machine it
		// may not have seen the end of the old connection yet.
		{"-storm-clients", &o.stormClients, 4},
		{"-handover-clients", &o.handoverClients, 3},
	} {
		most := max((fileLimit-own)/c.files, 1)
		if *c.n > most {
			note("%s: %d, not the %d asked for: a process may have %d files open", c.name, most, *c.n, fileLimit)
			*c.n = most
		}
	}
}

// ownVariables are settings of holdfast that are not the user's here.
var ownVariables = []string{"HOLDFAST_CONFIG", "HOLDFAST_LISTEN", "HOLDFAST_UPSTREAM_URL", "HOLDFAST_ADMIN_LISTEN"}

// holdfastEnviron is the environment for holdfast.
func holdfastEnviron() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains(ownVariables, name)
	})
}

// holdfastVariables are the user's settings of holdfast.
func holdfastVariables() []string {
	return slices.Sorted(slices.Values(slices.DeleteFunc(holdfastEnviron(), func(variable string) bool {
		return !strings.HasPrefix(variable, "HOLDFAST_")
	})))
}
