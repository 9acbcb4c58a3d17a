package clientjs

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// mainFile is what every version of the client has.
const mainFile = "socket.io.js"

// fileName is what servers serve under their path: clientPathRegex in socket.io's lib/index.ts.
var fileName = regexp.MustCompile(`^socket\.io(\.msgpack|\.esm)?(\.min)?\.js(\.map)?$`)

// banner is the first comment of a built client.
var banner = regexp.MustCompile(`^\s*/\*!\s*\*\s*Socket\.IO v(\d+)\.(\d+)\.(\S+)`)

// maxFileBytes is far above any client's or source map's size.
const maxFileBytes = 16 << 20

// Errors of Open.
var (
	// ErrNoClient means that the folder is no dist folder of socket.io-client.
	ErrNoClient = errors.New("no " + mainFile + " in it, which socket.io-client's dist folder has")
	// ErrTooOld is wrapped where the client cannot recover.
	ErrTooOld = errors.New("a client before 4.6, which cannot recover")
)

// Bundle is the files of a client, read once. It is safe for concurrent use.
type Bundle struct {
	version string
	files   map[string]*file
}

type file struct {
	contentType string
	etag        string // without quotes
	data        []byte
	gzipped     func() []byte // compressed when first asked for
}

// Open reads the files of a client from socket.io-client's dist folder. Errors wrap ErrNoClient, ErrTooOld and
// those of package fs.
func Open(dir string) (*Bundle, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, withoutPath(err)
	}
	b := &Bundle{files: make(map[string]*file)}
	for _, e := range entries {
		if !fileName.MatchString(e.Name()) {
			continue
		}
		if b.files[e.Name()], err = read(dir, e.Name()); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), withoutPath(err))
		}
	}
	main := b.files[mainFile]
	if main == nil {
		return nil, ErrNoClient
	}
	b.version = "unknown"
	if m := banner.FindSubmatch(main.data); m != nil {
		b.version = fmt.Sprintf("%s.%s.%s", m[1], m[2], m[3])
		major, _ := strconv.Atoi(string(m[1])) // they are digits
		minor, _ := strconv.Atoi(string(m[2]))
		if major < 4 || major == 4 && minor < 6 {
			return nil, fmt.Errorf("%s is of version %s: %w", mainFile, b.version, ErrTooOld)
		}
	}
	return b, nil
}

// withoutPath is an error of a file without its path, which the caller's message has.
func withoutPath(err error) error {
	if pathError, ok := errors.AsType[*fs.PathError](err); ok {
		return pathError.Err
	}
	return err
}

func read(dir, name string) (*file, error) {
	path := filepath.Join(dir, name)
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("not a file")
	case info.Size() > maxFileBytes:
		return nil, fmt.Errorf("larger than %d bytes", maxFileBytes)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	f := &file{contentType: "application/javascript; charset=utf-8", etag: hex.EncodeToString(sum[:16]), data: data}
	if strings.HasSuffix(name, ".map") {
		f.contentType = "application/json; charset=utf-8"
	}
	f.gzipped = sync.OnceValue(f.compress)
	return f, nil
}

func (f *file) compress() []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(f.data)
	if err = errors.Join(err, w.Close()); err != nil {
		panic(err) // a Buffer takes all
	}
	return b.Bytes()
}

// Version is the client's version, "unknown" if it does not say.
func (b *Bundle) Version() string { return b.version }

// Serve answers a request for a file of that name, if it is a GET or HEAD of one that is there. Otherwise it does nothing,
// and returns false. A nil Bundle has no files.
func (b *Bundle) Serve(w http.ResponseWriter, r *http.Request, name string) bool {
	if b == nil || r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	f := b.files[name]
	if f == nil {
		return false
	}
	h := w.Header()
	h.Set("Cache-Control", "public, max-age=0")
	h.Set("Content-Type", f.contentType)
	h.Set("Vary", "Accept-Encoding")
	data, etag := f.data, f.etag
	if acceptsGzip(r.Header) {
		data, etag = f.gzipped(), etag+"-gzip" // other bytes: a strong ETag differs
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("ETag", `"`+etag+`"`)
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(data)) // knows If-None-Match, ranges and HEAD
	return true
}

// acceptsGzip reads Accept-Encoding: RFC 9110, section 12.5.3.
func acceptsGzip(h http.Header) bool {
	accepts := false
	for coding := range strings.SplitSeq(strings.Join(h.Values("Accept-Encoding"), ","), ",") {
		name, params, _ := strings.Cut(coding, ";")
		weight := 1.0
		if q, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(params)), "q="); ok {
			var err error
			if weight, err = strconv.ParseFloat(q, 64); err != nil {
				weight = 0
			}
		}
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "gzip":
			return weight > 0
		case "*":
			accepts = weight > 0
		}
	}
	return accepts
}
