package probe

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"
)

// ErrUsage is wrapped by errors about the command line.
var ErrUsage = errors.New("probe: bad usage")

// Options say what to probe. They resemble a client's options.
type Options struct {
	URL       *url.URL      // scheme http or https, and host
	Client                  // no Origin skips the CORS check
	Key       string        // name of the parameter with a key (recovery.keyed.query); "" for none
	Transport string        // "polling", "websocket", or "" for both and the upgrade
	Away      time.Duration // between the cut and the reconnection
	JSON      bool          // write the report as JSON
}

// ParseArgs parses the command line without "probe". The error is flag.ErrHelp for -h, or wraps
// ErrUsage.
func ParseArgs(args []string) (Options, error) {
	var o Options
	flags := flag.NewFlagSet("probe", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	o.AddFlags(flags, 10*time.Second)
	flags.StringVar(&o.Key, "key", "", "")
	flags.StringVar(&o.Transport, "transport", "", "")
	flags.DurationVar(&o.Away, "away", 500*time.Millisecond, "")
	flags.BoolVar(&o.JSON, "json", false, "")
	targets, err := ParseMixed(flags, args)
	if errors.Is(err, flag.ErrHelp) {
		return o, err
	} else if err != nil {
		return o, usage("%v; see holdfast probe -h", err)
	}
	if len(targets) != 1 {
		return o, usage("found %d addresses, want one, such as holdfast probe https://chat.example.com", len(targets))
	}
	return o, o.resolve(targets[0])
}

// resolve checks the arguments, and fills in the rest as socket.io-client does.
func (o *Options) resolve(target string) error {
	if !strings.Contains(target, "://") && target != "" {
		return usage("the address %q has no scheme; did you mean https://%s, or http://%s?", target, target, target)
	}
	u, err := url.Parse(target)
	if err != nil {
		return usage("the address: %v", err)
	}
	switch u.Scheme {
	case "ws":
		u.Scheme = "http"
	case "wss":
		u.Scheme = "https"
	case "http", "https":
	default:
		return usage("the address %q must begin with http://, https://, ws:// or wss://", target)
	}
	if u.Host == "" {
		return usage("the address %q has no host", target)
	}
	if !strings.HasPrefix(o.Path, "/") {
		return usage("-path %q does not begin with a slash", o.Path)
	}
	o.Path = strings.TrimSuffix(o.Path, "/") + "/"
	if err := o.resolveNamespace(u.Path); err != nil {
		return err
	}
	if err := o.Complete(u.RawQuery); err != nil {
		return usage("%v", err)
	}
	switch o.Transport {
	case "", polling, webSocket:
	default:
		return usage("-transport %q is neither polling nor websocket", o.Transport)
	}
	if url.QueryEscape(o.Key) != o.Key {
		return usage("-key %q is not the name of a query parameter, such as hf_key", o.Key)
	}
	if o.Timeout <= 0 || o.Away < 0 {
		return usage("-timeout must be more than 0, such as 10s, and -away must not be negative")
	}
	o.URL = &url.URL{Scheme: u.Scheme, User: u.User, Host: u.Host}
	return nil
}

// resolveNamespace sets the namespace: that in the address, as in socket.io-client, that of
// -namespace, or the default.
func (o *Options) resolveNamespace(inURL string) error {
	if inURL == "/" {
		inURL = ""
	}
	switch {
	case inURL != "" && strings.HasPrefix(inURL+"/", o.Path):
		return usage("clients would take %s in the address for the namespace; set the path with -path instead", inURL)
	case inURL != "" && o.Namespace != "" && inURL != o.Namespace:
		return usage("the address names the namespace %s, but -namespace is %s", inURL, o.Namespace)
	case o.Namespace != "" && !strings.HasPrefix(o.Namespace, "/"):
		return usage("-namespace %q does not begin with a slash", o.Namespace)
	}
	o.Namespace = cmp.Or(inURL, o.Namespace, "/")
	return nil
}

func usage(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUsage, fmt.Sprintf(format, args...))
}

// Usage writes the help text.
func Usage(w io.Writer) error {
	_, err := io.WriteString(w, `holdfast probe acts as a client: it connects, cuts its own connection, reconnects, and
reports whether it was recovered, and if not, why.

Usage:

  holdfast probe https://chat.example.com
  holdfast probe -auth @auth.json -path /realtime/ https://chat.example.com/admin

The address is the one that clients connect to. As in socket.io-client, a path in
it is the namespace.

  -path PATH             path of Engine.IO requests (default /socket.io/)
  -namespace NAME        namespace, if it is not in the address (default /)
  -auth JSON             the auth object; @FILE reads it from a file
  -header 'NAME: VALUE'  added to each request; may be repeated
  -query A=B             added to each request; may be repeated
  -origin ORIGIN         origin of the clients' page; also checks CORS
  -key NAME              recover by a key in the query parameter NAME, such as
                         hf_key, as clients do that cannot resume by themselves
  -transport NAME        polling or websocket only
  -timeout DURATION      limit for each step (default 10s)
  -away DURATION         time between the cut and the reconnection (default 500ms)
  -insecure              accept any certificate
  -json                  write the report as JSON

Exit status: 0 recovered, 1 connected but not recovered over every transport,
2 bad usage, 3 could not connect. See docs/probe.md for details.
`)
	return err
}
