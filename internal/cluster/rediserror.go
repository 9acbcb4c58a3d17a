package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/redis/go-redis/v9"
)

// redisMistakes are answers that waiting does not change: the URL or an account must be corrected.
// hint may be "".
var redisMistakes = []struct{ begins, hint string }{
	{"WRONGPASS", ""},
	{"NOAUTH", ""},
	{"NOPERM", ""},
	{"ERR AUTH", ""},
	{"ERR invalid password", ""},
	{"ERR DB index", ""},
	{"ERR invalid DB", ""},
	{"ERR This instance has cluster support disabled", "several URLs, or cluster=true, mean Redis Cluster, which this is not"},
	{"MOVED", "this is a node of Redis Cluster: add ?cluster=true to the URL"},
	{"ERR unknown command 'time'", "this may be Sentinel: add ?master_name=... to the URL"},
	{"ERR unknown command 'sentinel'", "this is not Sentinel: remove master_name from the URL"},
}

// RefusedError says that Redis answered, and will not serve this client until the configuration
// changes.
type RefusedError struct {
	Err error // may have a hint
}

func (e *RefusedError) Error() string { return e.Err.Error() }

func (e *RefusedError) Unwrap() error { return e.Err }

// explain adds what a user should know to an error of Redis. It returns a *RefusedError for
// mistakes.
func (r *Redis) explain(err error) error {
	var answer redis.Error
	var certificate *tls.CertificateVerificationError
	switch {
	case err == nil:
		return nil
	case r.sentinel != "" && errors.Is(err, redis.Nil):
		return &RefusedError{fmt.Errorf("Sentinel knows no master with the name %q", r.sentinel)} //nolint:staticcheck // a name
	case errors.As(err, &certificate):
		return &RefusedError{err}
	case errors.As(err, &answer):
		if r.sentinel != "" && strings.HasPrefix(err.Error(), "redis: all sentinels") {
			return explainAnswer("Sentinel: ", answer)
		}
		return explainAnswer("", answer)
	case r.tls && errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w (rediss:// uses TLS: does Redis, too?)", err)
	case !r.tls && errors.Is(err, io.EOF):
		return fmt.Errorf("%w (if Redis requires TLS, use rediss://)", err)
	}
	return err
}

// explainAnswer explains an error that Redis, or Sentinel, has sent. from tells which of them.
func explainAnswer(from string, answer redis.Error) error {
	text, _, _ := strings.Cut(answer.Error(), ", with args beginning with")
	for _, m := range redisMistakes {
		switch {
		case !strings.HasPrefix(text, m.begins):
		case m.hint == "":
			return &RefusedError{fmt.Errorf("%s%w", from, answer)}
		default:
			return &RefusedError{fmt.Errorf("%s%s: %s", from, text, m.hint)}
		}
	}
	if strings.HasPrefix(text, "READONLY") {
		return fmt.Errorf("%s%w This Redis is a copy: name the master, or Sentinel", from, answer)
	}
	return fmt.Errorf("%s%w", from, answer)
}
