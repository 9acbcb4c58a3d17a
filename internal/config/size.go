package config

import (
	"errors"
	"math"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// Size is a number of bytes, never negative in a valid configuration.
type Size int64

// The units of a Size: powers of 1024 and of 1000.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	KB  Size = 1e3
	MB  Size = 1e6
	GB  Size = 1e9
)

// sizeUnits is ordered as String tries them.
var sizeUnits = []struct {
	name string
	size Size
}{
	{"GiB", GiB},
	{"MiB", MiB},
	{"KiB", KiB},
	{"GB", GB},
	{"MB", MB},
	{"KB", KB},
	{"B", 1},
}

const allowedSize = "a size in bytes, such as 4096, 64KiB or 16MB (units: B, KB, MB, GB, KiB, MiB, GiB)"

var errSize = errors.New("allowed: " + allowedSize)

// ParseSize parses a whole number of bytes, optionally with a unit: B, KB, MB,
// GB (powers of 1000), KiB, MiB, GiB (powers of 1024), in upper or lower case.
// The error says what is allowed.
func ParseSize(text string) (Size, error) {
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	unit := text[len(digits):]
	factor := Size(0)
	if unit == "" {
		factor = 1
	}
	for _, u := range sizeUnits {
		if strings.EqualFold(u.name, unit) {
			factor = u.size
		}
	}
	if unit != "" {
		digits = strings.TrimSuffix(digits, " ")
	}
	n, err := strconv.ParseUint(digits, 10, 63) // refuses signs, fractions and underscores
	if err != nil || factor == 0 || n > uint64(math.MaxInt64/factor) {
		return 0, errSize
	}
	return Size(n) * factor, nil
}

// Int is the size as an int, the greatest one if it is too large for this machine.
func (s Size) Int() int { return int(min(int64(s), math.MaxInt)) }

// String returns the shortest exact form that ParseSize accepts: 16MiB, 1MB, 4097.
func (s Size) String() string {
	for _, u := range sizeUnits[:len(sizeUnits)-1] {
		if s != 0 && s%u.size == 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *Size) UnmarshalYAML(node *yaml.Node) error {
	n, err := ParseSize(node.Value)
	if err != nil {
		return err
	}
	*s = n
	return nil
}

// MarshalYAML implements yaml.Marshaler.
func (s Size) MarshalYAML() (any, error) { return s.String(), nil }
