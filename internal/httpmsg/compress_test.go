package httpmsg

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
)

func decompress(encoding string, body []byte) (string, error) {
	var (
		zr  io.ReadCloser
		err error
	)
	if encoding == "gzip" {
		zr, err = gzip.NewReader(bytes.NewReader(body))
	} else {
		zr, err = zlib.NewReader(bytes.NewReader(body))
	}
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(zr)
	return string(text), err
}

// Pooled compressors must not carry data from one answer to another.
func TestCompressedAnswersAreIndependent(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				encoding := []string{"gzip", "deflate"}[(i+j)%2]
				want := strings.Repeat(fmt.Sprintf(`42["answer",%d,%d]`+"\x1e", i, j), 100+i*j)
				if got, err := decompress(encoding, Compress(encoding, []byte(want))); err != nil || got != want {
					t.Errorf("answer %d of %d by %s: %d bytes of %d, %v", j, i, encoding, len(got), len(want), err)
				}
			}
		})
	}
	wg.Wait()
}

// Compressing an answer allocates about the answer's size, not the size of a compressor.
func TestCompressorsAreReused(t *testing.T) {
	body := []byte(strings.Repeat(`42["news",{"text":"hello"}]`+"\x1e", 40))
	for _, encoding := range []string{"gzip", "deflate"} {
		const runs = 100
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			Compress(encoding, body)
		}
		runtime.ReadMemStats(&after)
		// Under the race detector pools drop some items.
		if n := (after.TotalAlloc - before.TotalAlloc) / runs; n > 400<<10 {
			t.Errorf("%s: %d bytes are allocated for an answer of %d", encoding, n, len(body))
		}
	}
}

func BenchmarkCompress(b *testing.B) {
	for _, encoding := range []string{"gzip", "deflate"} {
		for _, packets := range []int{40, 400} {
			body := []byte(strings.Repeat(`42["news",{"text":"hello"}]`+"\x1e", packets))
			b.Run(fmt.Sprintf("%s/%dB", encoding, len(body)), func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					Compress(encoding, body)
				}
			})
		}
	}
}
