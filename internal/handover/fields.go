package handover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// ErrMalformed is wrapped by all errors about a snapshot's bytes.
var ErrMalformed = errors.New("handover: malformed")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// fields is a payload that is being written.
type fields []byte

// number adds a number, unless it is 0.
func (f *fields) number(field int, n uint64) {
	if n != 0 {
		f.always(field, n)
	}
}

// always adds a number, even if it is 0: some fields are lists, or 0 is not their default.
func (f *fields) always(field int, n uint64) {
	*f = binary.AppendUvarint(*f, uint64(field)<<1)
	*f = binary.AppendUvarint(*f, n)
}

func (f *fields) flag(field int, b bool) {
	if b {
		f.number(field, 1)
	}
}

// duration adds a duration in nanoseconds. A negative one becomes 0.
func (f *fields) duration(field int, d time.Duration) { f.number(field, uint64(max(d, 0))) }

// bytes adds bytes, unless there are none.
func (f *fields) bytes(field int, b []byte) {
	if len(b) > 0 {
		f.item(field, b)
	}
}

func (f *fields) text(field int, s string) {
	if s != "" {
		f.item(field, []byte(s))
	}
}

// item adds bytes, even if there are none.
func (f *fields) item(field int, b []byte) {
	*f = binary.AppendUvarint(*f, uint64(field)<<1|1)
	*f = binary.AppendUvarint(*f, uint64(len(b)))
	*f = append(*f, b...)
}

// message adds a field that has fields itself.
func (f *fields) message(field int, write func(inner *fields)) {
	var inner fields
	write(&inner)
	f.item(field, inner)
}

// value is a field that was read: a number or bytes.
type value struct {
	n     uint64
	bytes []byte // valid as long as the snapshot
}

func (v value) text() string            { return string(v.bytes) }
func (v value) flag() bool              { return v.n != 0 }
func (v value) duration() time.Duration { return time.Duration(min(v.n, maxDuration)) }
func (v value) count() int              { return int(min(v.n, maxCount)) }

const (
	maxDuration = 1<<63 - 1
	maxCount    = 1<<31 - 1
)

// eachField calls fn for each field of a payload.
func eachField(b []byte, fn func(field int, v value) error) error {
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		if n <= 0 || key>>1 > maxCount {
			return malformed("bad field number")
		}
		b = b[n:]
		var v value
		if v.n, n = binary.Uvarint(b); n <= 0 {
			return malformed("field %d: bad number", key>>1)
		}
		b = b[n:]
		if key&1 != 0 {
			if v.n > uint64(len(b)) {
				return malformed("field %d: %d bytes, but %d are left", key>>1, v.n, len(b))
			}
			v.bytes, b = b[:v.n:v.n], b[v.n:]
			v.n = 0
		}
		if err := fn(int(key>>1), v); err != nil {
			return err
		}
	}
	return nil
}
