package proxy

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

// Compressors are used again: each takes 800 KiB, whatever the size of what it compresses.
var (
	gzipWriters = sync.Pool{New: func() any { return gzip.NewWriter(io.Discard) }}
	zlibWriters = sync.Pool{New: func() any { return zlib.NewWriter(io.Discard) }}
)

// compress compresses a body in the encoding, which is gzip or deflate.
func compress(encoding string, body []byte) []byte {
	pool := &zlibWriters // zlib's format is what HTTP calls deflate
	if encoding == "gzip" {
		pool = &gzipWriters
	}
	zw := pool.Get().(compressor)
	var b bytes.Buffer
	b.Grow(len(body) / 2)
	zw.Reset(&b)
	// Writes to a bytes.Buffer do not fail.
	_, _ = zw.Write(body)
	_ = zw.Close()
	zw.Reset(io.Discard) // does not keep b
	pool.Put(zw)
	return b.Bytes()
}
