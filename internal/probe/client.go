package probe

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

// Client says as which client to connect. The flags of probe, doctor and init set it.
type Client struct {
	Path      string // of Engine.IO requests, with a slash at both ends
	Namespace string
	Query     string // added to each request
	Header    http.Header
	Auth      json.RawMessage // a JSON object, or nil
	Origin    string          // of the clients' page
	Timeout   time.Duration   // of each step
	Insecure  bool            // accept any certificate

	auth    string // as the flag has it
	queries []string
}

// AddFlags adds the flags that set c. timeout is the default of -timeout.
func (c *Client) AddFlags(flags *flag.FlagSet, timeout time.Duration) {
	c.Header = http.Header{}
	flags.StringVar(&c.Path, "path", "/socket.io/", "")
	flags.StringVar(&c.Namespace, "namespace", "", "")
	flags.StringVar(&c.auth, "auth", "", "")
	flags.Func("header", "", c.addHeader)
	flags.Func("query", "", c.addQuery)
	flags.StringVar(&c.Origin, "origin", "", "")
	flags.DurationVar(&c.Timeout, "timeout", timeout, "")
	flags.BoolVar(&c.Insecure, "insecure", false, "")
}

// Complete reads what the flags only name, after they were parsed. inURL is the query of the
// address. The error is for the user.
func (c *Client) Complete(inURL string) (err error) {
	if inURL != "" {
		c.queries = append([]string{inURL}, c.queries...)
	}
	c.Query = strings.Join(c.queries, "&")
	if strings.ContainsFunc(c.Query, func(r rune) bool { return r <= ' ' || r == '#' || r == 0x7f }) {
		return fmt.Errorf("the query %q contains a character that a URL cannot; write a space as %%20, and # as %%23", c.Query)
	}
	c.Auth, err = readAuth(c.auth)
	return err
}

// readAuth returns a JSON object: s itself or, for @FILE, the file's content. A file keeps secrets
// out of the process list.
func readAuth(s string) (json.RawMessage, error) {
	if s == "" {
		return nil, nil
	}
	if name, ok := strings.CutPrefix(s, "@"); ok {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, errors.New("-auth: " + err.Error())
		}
		s = string(data)
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(s), &object); err != nil || object == nil {
		return nil, errors.New(`-auth is not a JSON object; want '{"token":"..."}' or @FILE`)
	}
	return json.RawMessage(s), nil
}

// addHeader adds a header that is written as "Name: value".
func (c *Client) addHeader(line string) error {
	name, value, ok := strings.Cut(line, ":")
	if name = strings.TrimSpace(name); !ok || name == "" {
		return errors.New("want 'Name: value'")
	}
	c.Header.Add(name, strings.TrimSpace(value))
	return nil
}

// addQuery adds parameters that are written as "name=value".
func (c *Client) addQuery(parameters string) error {
	for p := range strings.SplitSeq(parameters, "&") {
		if name, _, ok := strings.Cut(p, "="); !ok || name == "" {
			return errors.New("want name=value")
		}
	}
	c.queries = append(c.queries, parameters)
	return nil
}

// ParseMixed parses args, in which flags may come before and after other arguments. It returns the
// others.
func ParseMixed(flags *flag.FlagSet, args []string) (others []string, err error) {
	for len(args) > 0 {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if args = flags.Args(); len(args) > 0 {
			others, args = append(others, args[0]), args[1:]
		}
	}
	return others, nil
}
