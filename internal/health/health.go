package health

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/holdfast/holdfast/internal/config"
)

// maxAnswerBytes is how much of an answer is read and shown.
const maxAnswerBytes = 512

// maxBodyBytes is how much of an answer with status 200 is read.
const maxBodyBytes = 16 << 20

// Command asks the admin listener's /readyz and writes one line to stdout if the answer is 200.
// args are those after "health". Errors that wrap config.ErrInvalid are the user's to fix; any
// other means that holdfast is not ready.
func Command(ctx context.Context, args, environ []string, stdout io.Writer) error {
	target, timeout, err := Parse("health", "/readyz", 3*time.Second, args, environ)
	if errors.Is(err, flag.ErrHelp) {
		return Usage(stdout)
	} else if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if _, err := target.Ask(ctx); err != nil {
		return fmt.Errorf("not healthy: %w", err)
	}
	_, err = fmt.Fprintln(stdout, "ok")
	return err
}

// Target is where to ask a running holdfast: by a Unix socket, if socket is set.
type Target struct{ url, socket string }

// Parse reads the command line of a subcommand that asks the admin listener for a path. The flags
// besides -url and -timeout are those of the running process.
func Parse(command, path string, timeout time.Duration, args, environ []string) (Target, time.Duration, error) {
	var (
		address string
		serving []string // arguments for config.ParseArgs
	)
	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&address, "url", "", "")
	flags.DurationVar(&timeout, "timeout", timeout, "")
	for _, name := range []string{"config", "admin"} {
		flags.Func(name, "", func(value string) error {
			serving = append(serving, "-"+name, value)
			return nil
		})
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return Target{}, 0, err
	} else if err != nil {
		return Target{}, 0, bad("%v; see holdfast %s -h", err, command)
	}
	switch {
	case flags.NArg() > 0:
		return Target{}, 0, bad("found the argument %q; allowed: flags only, see holdfast %s -h", flags.Arg(0), command)
	case timeout <= 0:
		return Target{}, 0, bad("-timeout %v; allowed: a duration above 0, such as 3s", timeout)
	case address != "" && len(serving) > 0:
		return Target{}, 0, bad("-url says where to ask; leave out -config and -admin")
	case address != "":
		t, err := fromURL(address, path)
		return t, timeout, err
	}
	line, err := config.ParseArgs(serving)
	if err != nil {
		return Target{}, 0, err
	}
	cfg, _, err := config.Load(line, environ)
	if err != nil {
		return Target{}, 0, err
	}
	t, err := fromListen(cfg.Admin.Listen, path)
	return t, timeout, err
}

func bad(format string, args ...any) error {
	return &config.Error{Problems: []config.Problem{{Source: "command line", Message: fmt.Sprintf(format, args...)}}}
}

// fromURL asks for the path unless the address has one of its own.
func fromURL(address, path string) (Target, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return Target{}, bad("-url %q; allowed: a URL such as http://127.0.0.1:9090", address)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = path
	}
	return Target{url: u.String()}, nil
}

// fromListen turns the address that the admin listener listens on into one to connect to.
func fromListen(listen, path string) (Target, error) {
	if listen == "" {
		return Target{}, bad("admin.listen is off, so there is nothing to ask; turn it on, or name a -url")
	}
	network, address := config.SplitListen(listen)
	if network == "unix" {
		return Target{url: "http://holdfast" + path, socket: address}, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return Target{}, err // config has checked it
	}
	if port == "0" {
		return Target{}, bad("admin.listen has port 0, which the system chooses; name a -url")
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if strings.Contains(address, "[::]") {
			host = "::1"
		}
	}
	return Target{url: "http://" + net.JoinHostPort(host, port) + path}, nil
}

// Ask returns the answer's body if the answer is 200.
func (t Target) Ask(ctx context.Context) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "holdfast-health")
	transport := &http.Transport{DisableKeepAlives: true, Proxy: nil}
	if t.socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", t.socket)
		}
	}
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(req)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("no answer from %s in time", t)
	} else if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return nil, fmt.Errorf("no answer from %s: %w", t, err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusOK {
		return io.ReadAll(io.LimitReader(res.Body, maxBodyBytes))
	}
	body, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes)) // what there is of it
	return nil, fmt.Errorf("%s answers %s: %q", t, res.Status, strings.TrimSpace(string(body)))
}

func (t Target) String() string {
	if t.socket != "" {
		return "unix://" + t.socket
	}
	return t.url
}

// Usage writes the help text.
func Usage(w io.Writer) error {
	_, err := io.WriteString(w, `holdfast health asks a running holdfast whether it is ready for clients.

Usage:

  holdfast health
  holdfast health -config holdfast.yaml
  holdfast health -url http://127.0.0.1:9090

It asks /readyz of the admin listener. The address is that of admin.listen: give
the -config, the -admin and the HOLDFAST_ variables of the running process.

  -config FILE        the configuration of the running process
  -admin ADDR         its -admin
  -url URL            ask there instead
  -timeout DURATION   how long to wait for an answer (default 3s)

Exit status: 0 ready, 1 not ready or no answer, 2 bad usage or settings.
`)
	return err
}
