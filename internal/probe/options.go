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

// Options say what to probe, as a client's options would.
type Options struct {
	URL       *url.URL // scheme http or https, and host
	Path      string   // of the Engine.IO requests, with a slash at both ends
	Namespace string
	Query     string // added to each request
	Header    http.Header
	Auth      json.RawMessage // a JSON object, or nil
	Origin    string          // of the page that the clients are on; "" checks no CORS
	Transport string          // "polling", "websocket", or "" for both and the upgrade
	Timeout   time.Duration   // of each step
	Away      time.Duration   // between the cut and the return
	Insecure  bool            // any certificate will do
	JSON      bool            // the report is written so
}

// ParseArgs reads the command line, without "probe". The error is flag.ErrHelp for -h, or wraps ErrUsage.
func ParseArgs(args []string) (Options, error) {
	o := Options{Header: http.Header{}}
	query := []string{}
	var auth, namespace string
	flags := flag.NewFlagSet("probe", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.Path, "path", "/socket.io/", "")
	flags.StringVar(&namespace, "namespace", "", "")
	flags.StringVar(&auth, "auth", "", "")
	flags.Func("header", "", func(v string) error { return addHeader(o.Header, v) })
	flags.Func("query", "", func(v string) error { query = append(query, v); return nil })
	flags.StringVar(&o.Origin, "origin", "", "")
	flags.StringVar(&o.Transport, "transport", "", "")
	flags.DurationVar(&o.Timeout, "timeout", 10*time.Second, "")
	flags.DurationVar(&o.Away, "away", 500*time.Millisecond, "")
	flags.BoolVar(&o.Insecure, "insecure", false, "")
	flags.BoolVar(&o.JSON, "json", false, "")

	// Flags may stand before and after the URL.
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
		return o, usage("found %d addresses; wanted: one, as in holdfast probe https://chat.example.com", len(targets))
	}
	return o, o.resolve(targets[0], namespace, auth, query)
}

// resolve checks what was given, and fills in the rest as socket.io-client does.
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
		return usage("the address %q begins with none of http://, https://, ws://, wss://", target)
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
		return usage("%s in the address would be the namespace for a client; say -path for the path, and leave it out of the address", inURL)
	case inURL != "" && namespace != "" && inURL != namespace:
		return usage("the address names the namespace %s, and -namespace %s", inURL, namespace)
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
	if o.Auth, err = readAuth(auth); err != nil {
		return err
	}
	switch o.Transport {
	case "", polling, webSocket:
	default:
		return usage("-transport %q is neither polling nor websocket", o.Transport)
	}
	if o.Timeout <= 0 || o.Away < 0 {
		return usage("-timeout and -away are durations such as 10s, and -timeout is more than 0")
	}
	o.URL = &url.URL{Scheme: u.Scheme, User: u.User, Host: u.Host}
	return nil
}

// readAuth reads a JSON object, given as it is or, so that it is in no list of processes, as @FILE.
func readAuth(s string) (json.RawMessage, error) {
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
		return nil, usage(`-auth is no JSON object; wanted: '{"token":"..."}' or @FILE`)
	}
	return json.RawMessage(s), nil
}

func addHeader(h http.Header, line string) error {
	name, value, ok := strings.Cut(line, ":")
	if name = strings.TrimSpace(name); !ok || name == "" {
		return fmt.Errorf("wanted: 'Name: value'")
	}
	h.Add(name, strings.TrimSpace(value))
	return nil
}

func usage(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUsage, fmt.Sprintf(format, args...))
}

// Usage writes the help text.
func Usage(w io.Writer) error {
	_, err := io.WriteString(w, `holdfast probe acts as a client: it connects, cuts its own connection, comes back, and
says whether it was recovered, and if not, why.

Usage:

  holdfast probe https://chat.example.com
  holdfast probe -auth @auth.json -path /realtime/ https://chat.example.com/admin

The address is that which clients connect to; a path in it is the namespace, as
for socket.io-client.

  -path PATH             of the Engine.IO requests (default /socket.io/)
  -namespace NAME        if it is not in the address (default /)
  -auth JSON             the auth object; @FILE reads it from there
  -header 'NAME: VALUE'  added to each request; may be repeated
  -query A=B             added to each request; may be repeated
  -origin ORIGIN         of the page that clients are on: checks CORS
  -transport NAME        only polling, or only websocket
  -timeout DURATION      for each step (default 10s)
  -away DURATION         between the cut and the return (default 500ms)
  -insecure              accept any certificate
  -json                  write the report as JSON

Exit status: 0 recovered, 1 connected but not recovered, or not over every
transport, 2 bad usage, 3 could not connect. docs/probe.md has the details.
`)
	return err
}
