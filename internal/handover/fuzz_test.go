package handover

import (
	"encoding/binary"
	"hash/crc32"
	"runtime"
	"testing"
)

// sealHeader corrects the checksum of a header.
func sealHeader(data []byte) {
	sum := headerBytes - 4
	binary.LittleEndian.PutUint32(data[sum:], crc32.Checksum(data[:sum], castagnoli))
}

// seal corrects all checksums as far as the data looks like a snapshot. Otherwise a fuzzer would
// never get past them.
func seal(data []byte) {
	if len(data) < headerBytes {
		return
	}
	copy(data, magic)
	sealHeader(data)
	for at := headerBytes; len(data)-at >= recordHeadBytes; {
		n := int(binary.LittleEndian.Uint32(data[at+1:]))
		if n > len(data)-at-recordHeadBytes {
			return
		}
		head := recordHead(recordType(data[at]), data[at+recordHeadBytes:at+recordHeadBytes+n])
		copy(data[at:], head[:])
		at += recordHeadBytes + n
	}
}

// memoryFactor bounds the memory for a snapshot by its size: an entry of four bytes becomes an
// Entry, and slices grow in steps.
const memoryFactor = 200

// Read never panics, and needs no more memory than a multiple of its input. What it accepts, it
// also accepts after it was written again.
func FuzzRead(f *testing.F) {
	f.Add(example().write(f), false)
	f.Add(example().write(f), true)
	f.Add([]byte(magic), true)
	f.Fuzz(func(t *testing.T, data []byte, sealed bool) {
		if sealed {
			seal(data)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		c, err := read(data)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > uint64(len(data))*memoryFactor+1<<20 {
			t.Errorf("%d bytes took %d of memory", len(data), used)
		}
		if err != nil {
			return
		}
		if _, err := read(c.write(t)); err != nil {
			t.Errorf("accepted, but not again: %v", err)
		}
	})
}
