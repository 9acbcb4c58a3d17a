package clientjs

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const script = "/*!\n * Socket.IO v4.8.1\n * (c) somebody\n */\nio = 1"

// dist makes a folder with a client, and with files that must not be served.
func dist(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"socket.io.js": script, "socket.io.js.map": "{}", "socket.io.esm.min.js": "export 1", "socket.io.msgpack.min.js": "m",
		"package.json": "secret", "socket.io.js.bak": "old", "xsocket.io.js": "x",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func mustOpen(t *testing.T) *Bundle {
	t.Helper()
	b, err := Open(dist(t))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// serve returns the response to a request for a file, or nil if there is none.
func serve(t *testing.T, b *Bundle, method, name string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, "/socket.io/x", nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	if !b.Serve(w, r, name) {
		if w.Body.Len() > 0 || len(w.Header()) > 0 {
			t.Errorf("%s: not served, but answered %v", name, w.Header())
		}
		return nil
	}
	return w
}

func TestServe(t *testing.T) {
	b := mustOpen(t)
	if b.Version() != "4.8.1" {
		t.Errorf("version %q", b.Version())
	}
	for name, want := range map[string]string{
		"socket.io.js": script, "socket.io.js.map": "{}", "socket.io.esm.min.js": "export 1", "socket.io.msgpack.min.js": "m",
	} {
		r := serve(t, b, http.MethodGet, name)
		if r == nil {
			t.Errorf("%s is not served", name)
			continue
		}
		kind := "application/javascript; charset=utf-8"
		if strings.HasSuffix(name, ".map") {
			kind = "application/json; charset=utf-8"
		}
		if got := r.Body.String(); got != want || r.Code != 200 || r.Header().Get("Content-Type") != kind ||
			r.Header().Get("Cache-Control") != "public, max-age=0" || r.Header().Get("Content-Length") != strconv.Itoa(len(want)) {
			t.Errorf("%s: %d, %v, %q", name, r.Code, r.Header(), got)
		}
	}
}

func TestNotServed(t *testing.T) {
	b := mustOpen(t)
	for _, name := range []string{
		"", "package.json", "socket.io.js.bak", "xsocket.io.js", "socket.io.min.js", "../socket.io.js", "./socket.io.js",
		"/socket.io.js", `..\socket.io.js`, "socket.io.js/", "SOCKET.IO.JS", "socket.io.js\x00",
	} {
		if r := serve(t, b, http.MethodGet, name); r != nil {
			t.Errorf("%q: %d %q", name, r.Code, r.Body.String())
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodOptions, http.MethodDelete} {
		if serve(t, b, method, "socket.io.js") != nil {
			t.Errorf("%s is answered", method)
		}
	}
	if serve(t, nil, http.MethodGet, "socket.io.js") != nil {
		t.Error("a nil Bundle serves")
	}
}

func TestHead(t *testing.T) {
	r := serve(t, mustOpen(t), http.MethodHead, "socket.io.js")
	if got := r.Body.String(); got != "" || r.Code != 200 || r.Header().Get("ETag") == "" || r.Header().Get("Content-Length") == "" {
		t.Errorf("%d %v %q", r.Code, r.Header(), got)
	}
}

func TestETag(t *testing.T) {
	b := mustOpen(t)
	plain := serve(t, b, http.MethodGet, "socket.io.js").Header().Get("ETag")
	zipped := serve(t, b, http.MethodGet, "socket.io.js", "Accept-Encoding", "gzip").Header().Get("ETag")
	if plain == "" || plain == zipped || strings.HasPrefix(plain, "W/") {
		t.Fatalf("%s and %s: want strong ones that differ", plain, zipped)
	}
	if other := serve(t, b, http.MethodGet, "socket.io.esm.min.js").Header().Get("ETag"); other == plain {
		t.Error("two files have one ETag")
	}
	for _, tt := range []struct {
		match, encoding string
		want            int
	}{
		{plain, "", 304},
		// If-None-Match compares weakly: a proxy in between may have weakened it.
		{"W/" + plain, "", 304},
		{`"a", ` + plain, "", 304},
		{"*", "", 304},
		{zipped, "gzip", 304},
		{`"a"`, "", 200},
		{zipped, "", 200},
	} {
		r := serve(t, b, http.MethodGet, "socket.io.js", "If-None-Match", tt.match, "Accept-Encoding", tt.encoding)
		got := r.Body.String()
		if r.Code != tt.want || r.Code == 304 && (got != "" || r.Header().Get("ETag") == "") {
			t.Errorf("If-None-Match %s, Accept-Encoding %q: %d %v, want %d", tt.match, tt.encoding, r.Code, r.Header(), tt.want)
		}
	}
}

func TestGzip(t *testing.T) {
	b := mustOpen(t)
	for accept, want := range map[string]bool{
		"gzip": true, "deflate, gzip;q=0.5, br": true, "GZIP": true, "*": true, "gzip; q=1": true, "br, *;q=0.1": true,
		"": false, "identity": false, "gzip;q=0": false, "gzip;q=0.0": false, "gzip;q=x": false, "*;q=0": false, "*, gzip;q=0": false, "gzipped": false,
	} {
		r := serve(t, b, http.MethodGet, "socket.io.js", "Accept-Encoding", accept)
		if got := r.Header().Get("Content-Encoding") == "gzip"; got != want {
			t.Errorf("Accept-Encoding %q: gzip %v, want %v", accept, got, want)
			continue
		}
		got := io.Reader(r.Body)
		if want {
			z, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			got = z
		}
		if data, err := io.ReadAll(got); string(data) != script || err != nil || r.Header().Get("Vary") != "Accept-Encoding" {
			t.Errorf("Accept-Encoding %q: %q, %v, %v", accept, data, err, r.Header())
		}
	}
}

func TestOpenProblems(t *testing.T) {
	dir, old, folder := t.TempDir(), dist(t), dist(t)
	if err := os.WriteFile(filepath.Join(old, "socket.io.js"), []byte("/*!\n * Socket.IO v4.5.4\n */"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(folder, "socket.io.min.js"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, dir, want string
		err             error
	}{
		{"empty", dir, "it contains no socket.io.js", ErrNoClient},
		{"missing", filepath.Join(dir, "absent"), "no such file", os.ErrNotExist},
		{"a file", filepath.Join(old, "package.json"), "not a directory", nil},
		{"too old", old, "socket.io.js has version 4.5.4: clients before 4.6", ErrTooOld},
		{"a folder in a file's place", folder, "socket.io.min.js: not a file", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Open(tt.dir)
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) || tt.err != nil && !errors.Is(err, tt.err) {
				t.Errorf("%v, want %s", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), tt.dir) {
				t.Errorf("%v: has the path, which the caller says", err)
			}
		})
	}
}
