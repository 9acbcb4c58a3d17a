package probe

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// ErrUsage is wrapped by errors about the command line.
var ErrUsage = errors.New("probe: bad usage")

// Options say what to probe. They resemble a client's options.
type Options struct {
	URL       *url.URL // scheme http or https, and host
	Path      string   // of Engine.IO requests, with a slash at both ends
	Namespace string
	Query     string // added to each request
	Header    http.Header
	Auth      json.RawMessage // a JSON object, or nil
	Origin    string          // of the clients' page; "" skips the CORS check
	Key       string          // name of the parameter with a key (recovery.keyed.query); "" for none
	Transport string          // "polling", "websocket", or "" for both and the upgrade
	Timeout   time.Duration   // of each step
	Away      time.Duration   // between the cut and the reconnection
	Insecure  bool            // accept any certificate
	JSON      bool            // write the report as JSON
}

// ParseArgs parses the command line without "probe". The error is flag.ErrHelp for -h, or wraps
// ErrUsage.
func ParseArgs(args []string) (Options, error) {
	o := Options{Header: http.Header{}}
	query := []string{}
	var auth, namespace string
	flags := flag.NewFlagSet("probe", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.Path, "path", "/socket.io/", "")
	flags.StringVar(&namespace, "namespace", "", "")
	flags.StringVar(&auth, "auth", "", "")
	flags.Func("header", "", func(v string) error { return AddHeader(o.Header, v) })
	flags.Func("query", "", func(v string) error { query = append(query, v); return nil })
	flags.StringVar(&o.Origin, "origin", "", "")
	flags.StringVar(&o.Key, "key", "", "")
	flags.StringVar(&o.Transport, "transport", "", "")
	flags.DurationVar(&o.Timeout, "timeout", 10*time.Second, "")
	flags.DurationVar(&o.Away, "away", 500*time.Millisecond, "")
	flags.BoolVar(&o.Insecure, "insecure", false, "")
	flags.BoolVar(&o.JSON, "json", false, "")

	// Flags may come before and after the URL.
	var targets []string
	for len(args) > 0 {
		if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
			return o, err
		} else if err != nil {
			return o, usage("%v; see holdfast probe -h", err)
		}
		if args = flags.Args(); len(args) > 0 {
			targets, args = append(targets, args[0]), args[1:]
		}
	}
	if len(targets) != 1 {
		return o, usage("found %d addresses, want one, such as holdfast probe https://chat.example.com", len(targets))
	}
	return o, o.resolve(targets[0], namespace, auth, query)
}

// resolve checks the arguments, and fills in the rest as socket.io-client does.
func (o *Options) resolve(target, namespace, auth string, query []string) error {
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
	inURL := u.Path
	if inURL == "/" {
		inURL = ""
	}
	switch {
	case inURL != "" && strings.HasPrefix(inURL+"/", o.Path):
		return usage("clients would take %s in the address for the namespace; set the path with -path instead", inURL)
	case inURL != "" && namespace != "" && inURL != namespace:
		return usage("the address names the namespace %s, but -namespace is %s", inURL, namespace)
	case namespace != "" && !strings.HasPrefix(namespace, "/"):
		return usage("-namespace %q does not begin with a slash", namespace)
	}
	o.Namespace = "/"
	for _, n := range []string{inURL, namespace} {
		if n != "" {
			o.Namespace = n
		}
	}
	if u.RawQuery != "" {
		query = append([]string{u.RawQuery}, query...)
	}
	o.Query = strings.Join(query, "&")
	if o.Auth, err = ReadAuth(auth); err != nil {
		return err
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

// ReadAuth returns a JSON object: s itself or, for @FILE, the file's content. A file keeps secrets
// out of the process list.
func ReadAuth(s string) (json.RawMessage, error) {
	if s == "" {
		return nil, nil
	}
	if name, ok := strings.CutPrefix(s, "@"); ok {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, usage("-auth: %v", err)
		}
		s = string(data)
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(s), &object); err != nil || object == nil {
		return nil, usage(`-auth is not a JSON object; want '{"token":"..."}' or @FILE`)
	}
	return json.RawMessage(s), nil
}

// AddHeader adds a header that is written as "Name: value".
func AddHeader(h http.Header, line string) error {
	name, value, ok := strings.Cut(line, ":")
	if name = strings.TrimSpace(name); !ok || name == "" {
		return fmt.Errorf("want 'Name: value'")
	}
	h.Add(name, strings.TrimSpace(value))
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
