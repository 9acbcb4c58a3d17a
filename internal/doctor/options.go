package doctor

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/probe"
)

// ErrUsage is wrapped by errors about the command line.
var ErrUsage = errors.New("bad usage")

// Options say which server to look at, and as which client.
type Options struct {
	// URL is the server's address: scheme http or https and host, or scheme unix and path.
	URL *url.URL
	probe.Client
	CAFile string // certificate authorities to trust; "" for the system's
	JSON   bool   // write the report as JSON

	// For init.
	Out   string // the file to write
	Force bool   // replace it

	roots *x509.CertPool // CAFile's
}

// DefaultURL is what init looks at if it is not told: the default of upstream.url.
const DefaultURL = "http://127.0.0.1:3000"

const (
	defaultPath = "/socket.io/"
	defaultFile = "holdfast.yaml"
)

// ParseArgs parses the command line after the command's name, doctor or init. The error is
// flag.ErrHelp for -h, or wraps ErrUsage and begins with the command's name.
func ParseArgs(command string, args []string) (o Options, err error) {
	defer func() {
		if errors.Is(err, ErrUsage) {
			err = fmt.Errorf("%s: %w", command, err)
		}
	}()
	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	o.AddFlags(flags, 5*time.Second)
	flags.StringVar(&o.CAFile, "ca", "", "")
	if command == "init" {
		flags.StringVar(&o.Out, "out", defaultFile, "")
		flags.BoolVar(&o.Force, "force", false, "")
	} else {
		flags.BoolVar(&o.JSON, "json", false, "")
	}
	targets, err := probe.ParseMixed(flags, args)
	if errors.Is(err, flag.ErrHelp) {
		return o, err
	} else if err != nil {
		return o, usage("%v; see holdfast %s -h", err, command)
	}
	if len(targets) == 0 && command == "init" {
		targets = []string{DefaultURL}
	}
	if len(targets) != 1 {
		return o, usage("found %d addresses; wanted: one, such as holdfast %s http://127.0.0.1:3000", len(targets), command)
	}
	return o, o.resolve(targets[0])
}

// resolve checks what ParseArgs has read.
func (o *Options) resolve(target string) error {
	var err error
	o.Namespace = cmp.Or(o.Namespace, "/")
	if o.URL, err = parseAddress(target, o.Path); err != nil {
		return err
	}
	switch {
	case !strings.HasPrefix(o.Path, "/"):
		return usage("-path %q does not begin with a slash", o.Path)
	case !strings.HasPrefix(o.Namespace, "/"):
		return usage("-namespace %q does not begin with a slash", o.Namespace)
	case !config.ValidPath(strings.TrimSuffix(o.Path, "/") + "/"):
		return usage("-path %q is not a path such as %s, without . or .. segments, escapes or spaces", o.Path, defaultPath)
	case o.Timeout <= 0:
		return usage("-timeout must be above 0, such as 5s")
	}
	o.Path = strings.TrimSuffix(o.Path, "/") + "/"
	if err := o.Complete(""); err != nil {
		return usage("%v", err)
	}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return usage("-ca: %v", err)
		}
		if o.roots = x509.NewCertPool(); !o.roots.AppendCertsFromPEM(pem) {
			return usage("-ca: no certificate in %s", o.CAFile)
		}
	}
	return nil
}

// parseAddress takes the forms of upstream.url. A path is allowed if it is that of the requests,
// which people copy from a browser.
func parseAddress(target, path string) (*url.URL, error) {
	if !strings.Contains(target, "://") && target != "" {
		return nil, usage("the address %q has no scheme; did you mean http://%s?", target, target)
	}
	u, err := url.Parse(target)
	if err != nil {
		return nil, usage("the address: %v", err)
	}
	switch u.Scheme {
	case "ws":
		u.Scheme = "http"
	case "wss":
		u.Scheme = "https"
	case "http", "https":
	case "unix":
		if u.Host != "" || u.Path == "" {
			return nil, usage("the address %q is not of the form unix:///path.sock", target)
		}
		return &url.URL{Scheme: "unix", Path: u.Path}, nil
	default:
		return nil, usage("the address %q must begin with http://, https:// or unix:///", target)
	}
	switch inURL := strings.TrimSuffix(u.Path, "/"); {
	case u.Host == "":
		return nil, usage("the address %q has no host", target)
	case u.User != nil:
		return nil, usage("the address contains a user; give the header that the server wants with -header 'Authorization: ...'")
	case u.RawQuery != "":
		return nil, usage("the address contains a query; give it with -query")
	case inURL != "" && inURL != strings.TrimSuffix(path, "/"):
		return nil, usage("the address contains the path %s; give it with -path if it is that of the server's requests (the default is %s), or with -namespace", inURL, defaultPath)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

// tlsConfig returns how the doctor checks the server's certificate.
func (o Options) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, RootCAs: o.roots,
		InsecureSkipVerify: o.Insecure, //nolint:gosec // the user's choice, off by default
	}
}

func usage(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUsage, fmt.Sprintf(format, args...))
}

// flagsHelp describes the flags that both commands have.
const flagsHelp = `  -path PATH             path of Engine.IO requests (default /socket.io/)
  -namespace NAME        namespace to connect (default /)
  -auth JSON             the auth object; @FILE reads it from a file
  -header 'NAME: VALUE'  added to each request; may be repeated
  -query A=B             added to each request; may be repeated
  -origin ORIGIN         origin of the clients' page
  -timeout DURATION      limit for each step (default 5s)
  -ca FILE               certificate authorities to trust (PEM)
  -insecure              accept any certificate
`

// DoctorUsage writes the help text of doctor.
func DoctorUsage(w io.Writer) error {
	_, err := io.WriteString(w, `holdfast doctor examines a running Socket.IO server, and says what recovery will do for
its clients, and what it will not.

Usage:

  holdfast doctor http://127.0.0.1:3000
  holdfast doctor -auth @auth.json -namespace /admin https://chat.example.com

The address is the server's own, as in upstream.url. It sees at most one socket that
connects and disconnects, and a few connections without one.

`+flagsHelp+`  -json                  write the report as JSON

Exit status: 0 holdfast can recover this server's clients, 1 it is a Socket.IO server
but something is in the way, 2 bad usage, 3 no Socket.IO server was found.
See docs/doctor.md for details.
`)
	return err
}

// InitUsage writes the help text of init.
func InitUsage(w io.Writer) error {
	_, err := io.WriteString(w, `holdfast init looks at a running Socket.IO server like holdfast doctor, and writes a
commented configuration file for it.

Usage:

  holdfast init                                 # http://127.0.0.1:3000
  holdfast init -out chat.yaml https://chat.example.com

`+flagsHelp+`  -out FILE              the file to write (default holdfast.yaml)
  -force                 replace the file if it exists

Exit status: 0 the file was written, 1 it could not be written, 2 bad usage, 3 no
Socket.IO server was found, and no file was written. See docs/doctor.md for details.
`)
	return err
}
