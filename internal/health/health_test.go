package health

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/internal/config"
)

// answering serves one status and text at /readyz.
func answering(t *testing.T, status int, text string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			status, text = http.StatusNotFound, "asked for "+r.URL.Path
		}
		w.WriteHeader(status)
		w.Write([]byte(text)) //nolint:errcheck // the client reads it or fails
	}))
	t.Cleanup(s.Close)
	return s
}

func TestReadyAsTheConfigurationSays(t *testing.T) {
	s := answering(t, http.StatusOK, "ok\n")
	addr := s.Listener.Addr().String()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "holdfast.yaml")
	if err := os.WriteFile(file, []byte("admin: {listen: \"0.0.0.0:"+port+"\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		args    []string
		environ []string
	}{
		{"the variable of the image, all addresses", nil, []string{"HOLDFAST_ADMIN_LISTEN=:" + port}},
		{"the file of the running process", []string{"-config", file}, nil},
		{"its flag", []string{"--admin", addr}, nil},
		{"a URL without a path", []string{"-url", s.URL}, nil},
		{"a URL with one", []string{"-url", s.URL + "/readyz"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := Command(t.Context(), tt.args, tt.environ, &out); err != nil || out.String() != "ok\n" {
				t.Errorf("%q, %v", out.String(), err)
			}
		})
	}
}

func TestReadyOverAUnixSocket(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("paths of sockets begin with a slash")
	}
	dir, err := os.MkdirTemp("/tmp", "hf") //nolint:usetesting // t.TempDir may be longer than a socket's path can be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "admin.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := answering(t, http.StatusOK, "ok")
	go http.Serve(ln, s.Config.Handler) //nolint:errcheck // ends with the listener
	defer ln.Close()
	if err := Command(t.Context(), nil, []string{"HOLDFAST_ADMIN_LISTEN=unix://" + path}, new(bytes.Buffer)); err != nil {
		t.Error(err)
	}
}

func TestNotReady(t *testing.T) {
	draining := answering(t, http.StatusServiceUnavailable, "draining\n")
	const gone = "http://127.0.0.1:1"               // nothing listens there
	silent, err := net.Listen("tcp", "127.0.0.1:0") // connects, and does not answer
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"it says why", []string{"-url", draining.URL}, "503 Service Unavailable: \"draining\""},
		{"nothing listens", []string{"-url", gone}, "no answer from " + gone + "/readyz: "},
		{"it hangs", []string{"-url", "http://" + silent.Addr().String(), "-timeout", "20ms"}, "in time"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := Command(t.Context(), tt.args, nil, new(bytes.Buffer))
			if err == nil || errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v; want an error with %q", err, tt.want)
			}
		})
	}
}

func TestBadUsage(t *testing.T) {
	for _, tt := range []struct {
		args    []string
		environ []string
		want    string
	}{
		{[]string{"-x"}, nil, "see holdfast health -h"},
		{[]string{"now"}, nil, `"now"`},
		{[]string{"-url", "9090"}, nil, "http://127.0.0.1:9090"},
		{[]string{"-url", "http://127.0.0.1:1", "-admin", ":1"}, nil, "leave out"},
		{[]string{"-timeout", "0s"}, nil, "above 0"},
		{[]string{"-admin", ""}, nil, "admin.listen is off"},
		{[]string{"-admin", ":0"}, nil, "port 0"},
		{nil, []string{"HOLDFAST_LOG_LEVEL=loud"}, "log.level"},
	} {
		err := Command(t.Context(), tt.args, tt.environ, new(bytes.Buffer))
		if !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q %q: got %v; want a usage error with %q", tt.args, tt.environ, err, tt.want)
		}
	}
}
