package doctor

import (
	"context"
	"errors"
	"flag"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/internal/siotest/pagetest"
)

// ended is a context that is done.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestParseArgs(t *testing.T) {
	const u = "http://h:1"
	for _, tt := range []struct {
		name string
		args []string
		err  string // part of the error, or "" for none
	}{
		{"an address", []string{u}, ""},
		{"none", nil, "found 0 addresses"},
		{"two", []string{u, u}, "found 2 addresses"},
		{"no scheme", []string{"localhost:3000"}, "did you mean http://localhost:3000?"},
		{"another scheme", []string{"ftp://h"}, "must begin with http://"},
		{"no host", []string{"http:///socket.io/"}, "has no host"},
		{"a Unix socket with a host", []string{"unix://run/s"}, "unix:///path.sock"},
		{"a user", []string{"http://u:p@h"}, "-header"},
		{"a query", []string{"http://h?a=b"}, "-query"},
		{"a path", []string{"http://h/chat"}, "contains the path /chat"},
		{"a path without a slash", []string{u, "-path", "b"}, "does not begin with a slash"},
		{"a path with a blank", []string{u, "-path", "/a b"}, "escapes or spaces"},
		{"a namespace without a slash", []string{u, "-namespace", "b"}, "does not begin with a slash"},
		{"auth that is no object", []string{u, "-auth", "[1]"}, "not a JSON object"},
		{"a header without a value", []string{u, "-header", "x"}, "Name: value"},
		{"a query without a value", []string{u, "-query", "a"}, "name=value"},
		{"no time", []string{u, "-timeout", "0s"}, "above 0"},
		{"no file with authorities", []string{u, "-ca", "/nowhere"}, "no such file"},
		{"authorities without a certificate", []string{u, "-ca", "doc.go"}, "no certificate in doc.go"},
		{"a flag of init", []string{u, "-force"}, "not defined: -force"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseArgs("doctor", tt.args)
			if tt.err == "" && err != nil || tt.err != "" && (!errors.Is(err, ErrUsage) || !strings.HasPrefix(err.Error(), "doctor: bad usage: ") || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("ParseArgs(%q) = %v, want %q", tt.args, err, tt.err)
			}
		})
	}
	if _, err := ParseArgs("doctor", []string{"-h"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: %v", err)
	}
	if _, err := ParseArgs("init", []string{u, u}); err == nil || !strings.HasPrefix(err.Error(), "init: bad usage: found 2 addresses") {
		t.Errorf("init: %v", err)
	}
	o, err := ParseArgs("init", []string{"-path", "/a"})
	if err != nil || o.URL.String() != DefaultURL || o.Path != "/a/" || o.Out != "holdfast.yaml" {
		t.Errorf("got %+v, %v", o, err)
	}
}

func TestCodesOnPage(t *testing.T) {
	pagetest.Codes(t, "doctor.md", Codes())
}

// Every flag is on the page and in the help.
func TestFlagsOnPage(t *testing.T) {
	var help strings.Builder
	if err := errors.Join(DoctorUsage(&help), InitUsage(&help)); err != nil {
		t.Fatal(err)
	}
	pagetest.Flags(t, pagetest.Read(t, "doctor.md"), help.String(), "options.go", "../probe/client.go")
}
