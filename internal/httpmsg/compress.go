package httpmsg

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"io"
	"sync"
)

// compressor is what gzip.Writer and zlib.Writer have in common.
type compressor interface {
	io.WriteCloser
	Reset(w io.Writer)
}

// Compressors are pooled because each takes 800 KiB, even for a small body.
var (
	gzipWriters = sync.Pool{New: func() any { return gzip.NewWriter(io.Discard) }}
	zlibWriters = sync.Pool{New: func() any { return zlib.NewWriter(io.Discard) }}
)

// Compress returns the compressed body. encoding is gzip or deflate.
func Compress(encoding string, body []byte) []byte {
	pool := &zlibWriters // HTTP's deflate is the zlib format
	if encoding == "gzip" {
		pool = &gzipWriters
	}
	zw := pool.Get().(compressor)
	var b bytes.Buffer
	b.Grow(len(body) / 2)
	zw.Reset(&b)
	// Writes to a bytes.Buffer never fail.
	_, _ = zw.Write(body)
	_ = zw.Close()
	zw.Reset(io.Discard) // drops the reference to b
	pool.Put(zw)
	return b.Bytes()
}
