package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// setting is one leaf of Config: what a user can set.
type setting struct {
	key   string // dotted path of yaml names
	value reflect.Value
	live  bool // can change while holdfast runs
}

// env is the name of the setting's environment variable.
func (s setting) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(s.key, ".", "_"))
}

// settings lists the leaves of c in the order of its fields. Setting a value
// changes c.
func settings(c *Config) []setting {
	return appendSettings(nil, "", reflect.ValueOf(c).Elem())
}

func appendSettings(list []setting, prefix string, v reflect.Value) []setting {
	for field, value := range v.Fields() {
		key := prefix + yamlName(field)
		if value.Kind() == reflect.Struct {
			list = appendSettings(list, key+".", value)
			continue
		}
		list = append(list, setting{key, value, field.Tag.Get("reload") == "live"})
	}
	return list
}

func yamlName(field reflect.StructField) string { return field.Tag.Get("yaml") }

const (
	allowedDuration = "a duration with a unit (ms, s, m or h) and without a sign, such as 500ms, 90s or 1h30m"
	allowedNumber   = "a whole number"
	allowedBool     = "true or false"
	allowedList     = "a list"
	allowedURLs     = "a URL or a list of URLs"
	allowedText     = "a string"
)

// allowedFor describes what a setting of v's type accepts.
func allowedFor(v reflect.Value) string {
	switch v.Interface().(type) {
	case Size:
		return allowedSize
	case time.Duration:
		return allowedDuration
	case int:
		return allowedNumber
	case bool:
		return allowedBool
	case []string:
		return allowedList
	case URLs:
		return allowedURLs
	}
	return allowedText
}

// parse sets the value from text. Lists are comma-separated. On an error, which
// says what is allowed, the value does not change.
func (s setting) parse(text string) error {
	switch s.value.Interface().(type) {
	case Size:
		n, err := ParseSize(text)
		if err != nil {
			return err
		}
		s.value.SetInt(int64(n))
	case time.Duration:
		d, err := parseDuration(text)
		if err != nil {
			return err
		}
		s.value.SetInt(int64(d))
	case int:
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || strings.HasPrefix(text, "+") {
			return errors.New("allowed: " + allowedNumber)
		}
		s.value.SetInt(n)
	case bool:
		if text != "true" && text != "false" {
			return errors.New("allowed: " + allowedBool)
		}
		s.value.SetBool(text == "true")
	case []string:
		s.value.Set(reflect.ValueOf(splitList(text)))
	case URLs:
		s.value.Set(reflect.ValueOf(URLs(splitList(text))))
	default:
		if s.value.Kind() != reflect.String {
			panic(fmt.Sprintf("config: no parser for the type of %s, %v", s.key, s.value.Type()))
		}
		s.value.SetString(text)
	}
	return nil
}

func splitList(text string) []string {
	list := []string{}
	if text != "" {
		for item := range strings.SplitSeq(text, ",") {
			list = append(list, strings.TrimSpace(item))
		}
	}
	return list
}

// format is the inverse of parse.
func (s setting) format() string {
	switch v := s.value.Interface().(type) {
	case time.Duration:
		return formatDuration(v)
	case []string:
		return strings.Join(v, ",")
	case URLs:
		return strings.Join(v, ",")
	default:
		return fmt.Sprint(v)
	}
}

// parseDuration is time.ParseDuration without signs. It refuses a number without
// a unit, except 0: it could mean seconds, or milliseconds as in Socket.IO.
func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	switch {
	case err == nil && !strings.ContainsAny(text, "+-"):
		return d, nil
	case text != "" && strings.Trim(text, "0123456789") == "":
		return 0, fmt.Errorf("the unit is missing (%[1]ss or %[1]sms?); allowed: %[2]s", text, allowedDuration)
	default:
		return 0, errors.New("allowed: " + allowedDuration)
	}
}

// formatDuration is Duration.String without trailing zero units: 2m, not 2m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	if s == "0s" {
		return "0"
	}
	return s
}

// didYouMean returns a hint for a name that is not one of the candidates, or
// "" if none is close.
func didYouMean(name string, candidates []string) string {
	if best := nearest(name, candidates); best != "" {
		return fmt.Sprintf("; did you mean %s?", best)
	}
	return ""
}

// nearest returns the candidate of which name may be a misspelling, or "".
func nearest(name string, candidates []string) string {
	// Only letters count, not the style: maxPayload is max_payload.
	plain := func(s string) string {
		return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
	}
	best, bestDistance := "", 1+len(plain(name))/3
	for _, c := range slices.Sorted(slices.Values(candidates)) {
		if d := editDistance(plain(name), plain(c)); d < bestDistance || d == 0 {
			best, bestDistance = c, d
		}
	}
	return best
}

// editDistance returns the Levenshtein distance in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
