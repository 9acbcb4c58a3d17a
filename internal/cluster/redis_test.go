package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// answer is an error that Redis sends.
type answer string

func (a answer) Error() string { return string(a) }

func (answer) RedisError() {}

func TestRedisURLs(t *testing.T) {
	for _, tt := range []struct {
		name string
		urls []string
		want string // the kind of client, and what it connects to
	}{
		{"one Redis", []string{"redis://u:p@one/3"}, "one u:p one:6379 3 false"},
		{"TLS", []string{"rediss://one:7000"}, "one : one:7000 0 true"},
		{"Sentinel", []string{"redis://u:p@a/2?master_name=main&username=x&password=y"}, "sentinel u:p x:y [a:26379] 2 main"},
		{"several Sentinels", []string{"redis://[::1]?master_name=m", "redis://b:5", "redis://c"}, "sentinel : : [[::1]:26379 b:5 c:26379] 0 m"},
		{"Sentinels in the first URL", []string{"redis://a:4?master_name=m&addr=b:5"}, "sentinel : : [a:4 b:5] 0 m"},
		{"one node of Redis Cluster", []string{"redis://:p@a?cluster=true"}, "cluster :p [a:6379]"},
		{"several", []string{"redis://a", "redis://b:7", "redis://[::2]"}, "cluster : [a:6379 [::2]:6379 b:7]"},
		{"a parameter that does not exist", []string{"redis://a?colour=red"}, "redis: unexpected option: colour"},
		{"and with Sentinel", []string{"redis://a?master_name=m&colour=red"}, "redis: unexpected option: colour"},
		{"and with Redis Cluster", []string{"redis://a?colour=red", "redis://b"}, "redis: unexpected option: colour"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := describe(tt.urls); got != tt.want {
				t.Errorf("%v: got %q, want %q", tt.urls, got, tt.want)
			}
		})
	}
}

// describe says how NewRedis reads URLs.
func describe(urls []string) string {
	o, err := redisOptions(urls)
	switch {
	case err != nil:
		return err.Error()
	case o.sentinel != nil:
		s := o.sentinel
		return fmt.Sprintf("sentinel %s:%s %s:%s %v %d %s", s.SentinelUsername, s.SentinelPassword, s.Username, s.Password, s.SentinelAddrs, s.DB, s.MasterName)
	case o.cluster != nil:
		slices.Sort(o.cluster.Addrs[1:])
		return fmt.Sprintf("cluster %s:%s %v", o.cluster.Username, o.cluster.Password, o.cluster.Addrs)
	default:
		return fmt.Sprintf("one %s:%s %s %d %t", o.one.Username, o.one.Password, o.one.Addr, o.one.DB, o.one.TLSConfig != nil)
	}
}

// A replica that has not renewed its entry for a while does not count, even if Redis's clock has
// changed meanwhile.
func TestAgeOfEntries(t *testing.T) {
	const now = int64(1e12)
	for seen, want := range map[int64]bool{now: true, now - 14_000: true, now + 14_000: true, now - 15_000: false, now + 3_600_000: false} {
		if got := (redisEntry{Seen: seen}).age(now) < staleAfter; got != want {
			t.Errorf("one of %d ms ago counts: %v", now-seen, got)
		}
	}
}

func TestRedisErrorsAreExplained(t *testing.T) {
	unreachable := func(errs ...error) error {
		return fmt.Errorf("redis: all sentinels specified in configuration are unreachable: %w", errors.Join(errs...))
	}
	plain, secure, sentinel := &Redis{}, &Redis{tls: true}, &Redis{sentinel: "main"}
	for _, tt := range []struct {
		name    string
		redis   *Redis
		err     error
		want    string
		refused bool
	}{
		{"wrong password", plain, answer("WRONGPASS invalid"), "WRONGPASS invalid", true},
		{"out of memory", plain, answer("OOM command not allowed"), "OOM command not allowed", false},
		{"loading", plain, answer("LOADING Redis is loading"), "LOADING Redis is loading", false},
		{"a copy", plain, answer("READONLY You can't write."), "READONLY You can't write. This Redis is a copy: name the master, or Sentinel", false},
		{"a node of a cluster", plain, answer("MOVED 1 a:1"), "MOVED 1 a:1: this is a node of Redis Cluster: add ?cluster=true to the URL", true},
		{"no cluster", plain, answer("ERR This instance has cluster support disabled"), "ERR This instance has cluster support disabled: several URLs, or cluster=true, mean Redis Cluster, which this is not", true},
		{"Sentinel", plain, answer("ERR unknown command 'time', with args beginning with: "), "ERR unknown command 'time': this may be Sentinel: add ?master_name=... to the URL", true},
		{"no Sentinel", sentinel, unreachable(answer("ERR unknown command 'sentinel', with args beginning with: 'x'")), "Sentinel: ERR unknown command 'sentinel': this is not Sentinel: remove master_name from the URL", true},
		{"a master that Sentinel does not know", sentinel, unreachable(io.EOF, redis.Nil), `Sentinel knows no master with the name "main"`, true},
		{"Sentinel's password", sentinel, unreachable(answer("NOAUTH Authentication required.")), "Sentinel: NOAUTH Authentication required.", true},
		{"the master's password", sentinel, answer("NOAUTH Authentication required."), "NOAUTH Authentication required.", true},
		{"Sentinel is down", sentinel, unreachable(io.EOF), "redis: all sentinels specified in configuration are unreachable: EOF (if Redis requires TLS, use rediss://)", false},
		{"a certificate", secure, &tls.CertificateVerificationError{Err: errors.New("unknown authority")}, "tls: failed to verify certificate: unknown authority", true},
		{"TLS with one that does not", secure, context.DeadlineExceeded, "context deadline exceeded (rediss:// uses TLS: does Redis, too?)", false},
		{"down", plain, context.DeadlineExceeded, "context deadline exceeded", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.redis.explain(tt.err)
			var refused *RefusedError
			if err.Error() != tt.want || errors.As(err, &refused) != tt.refused {
				t.Errorf("got %q, refused: %t\nwant %q, %t", err, errors.As(err, &refused), tt.want, tt.refused)
			}
		})
	}
	if err := plain.explain(nil); err != nil {
		t.Error(err)
	}
}

// The client library uses this program's log, at level debug only.
func TestRedisLog(t *testing.T) {
	var b strings.Builder
	level := new(slog.LevelVar)
	log := redisLog{slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: level}))}
	log.Printf(t.Context(), "connection %d failed", 1)
	if b.Len() > 0 {
		t.Errorf("logged at level info: %s", &b)
	}
	level.Set(slog.LevelDebug)
	log.Printf(t.Context(), "connection %d failed", 2)
	if !strings.Contains(b.String(), `msg="client of Redis" message="connection 2 failed"`) {
		t.Errorf("got %q", &b)
	}
}
