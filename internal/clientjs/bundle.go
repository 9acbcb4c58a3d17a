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

	"github.com/holdfast/holdfast/internal/contentcoding"
)

// mainFile is the file that every version of the client has.
const mainFile = "socket.io.js"

// fileName matches the files that servers serve: clientPathRegex in socket.io's lib/index.ts.
var fileName = regexp.MustCompile(`^socket\.io(\.msgpack|\.esm)?(\.min)?\.js(\.map)?$`)

// banner is the first comment of a built client.
var banner = regexp.MustCompile(`^\s*/\*!\s*\*\s*Socket\.IO v(\d+)\.(\d+)\.(\S+)`)

// maxFileBytes is far more than any client or source map needs.
const maxFileBytes = 16 << 20

// Errors of Open.
var (
	// ErrNoClient means that the folder is not the dist folder of socket.io-client.
	ErrNoClient = errors.New("it contains no " + mainFile + ", unlike the dist folder of socket.io-client")
	// ErrTooOld is wrapped if the client does not support recovery.
	ErrTooOld = errors.New("clients before 4.6 cannot recover")
)

// Bundle holds the files of a client in memory. It is safe for concurrent use.
type Bundle struct {
	version string
	files   map[string]*file
}

type file struct {
	contentType string
	etag        string // without quotes
	data        []byte
	gzipped     func() []byte // compresses data on the first call
}

// Open reads a client's files from socket.io-client's dist folder. Errors wrap ErrNoClient,
// ErrTooOld or errors of package fs.
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
		major, _ := strconv.Atoi(string(m[1])) // cannot fail: only digits
		minor, _ := strconv.Atoi(string(m[2]))
		if major < 4 || major == 4 && minor < 6 {
			return nil, fmt.Errorf("%s has version %s: %w", mainFile, b.version, ErrTooOld)
		}
	}
	return b, nil
}

// withoutPath strips the path from a file's error, because the caller's message contains it.
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
		panic(err) // impossible: a Buffer does not fail
	}
	return b.Bytes()
}

// Version returns the client's version, or "unknown" if the client does not say.
func (b *Bundle) Version() string { return b.version }

// Serve responds to a GET or HEAD request for a file of the bundle. For another request it does
// nothing and returns false. A nil Bundle has no files.
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
	if contentcoding.Choose(r.Header, "gzip") == "gzip" {
		data, etag = f.gzipped(), etag+"-gzip" // strong ETags differ for different bytes
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("ETag", `"`+etag+`"`)
	// Handles If-None-Match, ranges and HEAD.
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(data))
	return true
}
