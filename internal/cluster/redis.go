package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// staleAfter is the age from which an entry no longer counts, by Redis' clock.
	staleAfter = 15 * time.Second
	// deleteAfter is how old an entry must be for others to delete it.
	deleteAfter = time.Minute
)

// Redis is a Book in a hash of Redis or Valkey. Each replica writes its own field, and all read
// all.
type Redis struct {
	client   redis.UniversalClient
	sentinel string // name of the master that Sentinel is asked for; "" without Sentinel
	tls      bool
	key      string
}

// redisEntry is the value of a replica's field.
type redisEntry struct {
	Addr string `json:"addr"`
	Seen int64  `json:"seen"` // in milliseconds, by Redis' clock
}

// NewRedis returns the Book of the cluster called name. More than one URL, or cluster=true in the
// first, means Redis Cluster; master_name in the first means Sentinel. The client library logs to
// log, at level debug.
func NewRedis(urls []string, name string, log *slog.Logger) (*Redis, error) {
	redis.SetLogger(redisLog{log})
	o, err := redisOptions(urls)
	if err != nil {
		return nil, err
	}
	r := &Redis{client: o.dial(), key: "holdfast:{" + name + "}", tls: strings.HasPrefix(urls[0], "rediss:")}
	if o.sentinel != nil {
		r.sentinel = o.sentinel.MasterName
	}
	return r, nil
}

// redisLog is the log of the client library, which would otherwise write to stderr in its own
// format.
type redisLog struct{ log *slog.Logger }

// Printf implements the library's interface.
func (l redisLog) Printf(ctx context.Context, format string, args ...any) {
	if l.log.Enabled(ctx, slog.LevelDebug) {
		l.log.Debug("client of Redis", "message", fmt.Sprintf(format, args...))
	}
}

// Check asks Redis once, so that a wrong address or password shows at the start. It changes
// nothing.
func (r *Redis) Check(ctx context.Context) error {
	if _, err := r.time(ctx); err != nil {
		return err
	}
	if err := r.client.HGetAll(ctx, r.key).Err(); err != nil {
		return r.explain(err)
	}
	// No replica has this id. If Redis is not writable, it answers with an error.
	return r.explain(r.client.HDel(ctx, r.key, "none").Err())
}

// Close ends a Book that is not watched.
func (r *Redis) Close() { _ = r.client.Close() } // nothing was written that could be lost

// Watch implements Book.
func (r *Redis) Watch(ctx context.Context, self Entry, now <-chan struct{}, found func([]Entry, error)) {
	poll(ctx, now, func(ctx context.Context) error {
		entries, err := r.lookup(ctx, self)
		found(entries, err)
		return err
	})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = r.client.HDel(ctx, r.key, self.ID).Err() // otherwise the entry becomes stale
	r.Close()
}

// time returns the time of the Redis that has the entries. The nodes of a Redis Cluster have
// several clocks.
func (r *Redis) time(ctx context.Context) (time.Time, error) {
	var node redis.Cmdable = r.client
	if c, ok := r.client.(*redis.ClusterClient); ok {
		owner, err := c.MasterForKey(ctx, r.key)
		if err != nil {
			return time.Time{}, r.explain(err)
		}
		node = owner
	}
	clock, err := node.Time(ctx).Result()
	return clock, r.explain(err)
}

// lookup makes self known and returns all replicas that did so recently.
func (r *Redis) lookup(ctx context.Context, self Entry) ([]Entry, error) {
	clock, err := r.time(ctx)
	if err != nil {
		return nil, err
	}
	seen := clock.UnixMilli()
	value, err := json.Marshal(redisEntry{self.Addr, seen})
	if err != nil {
		return nil, err
	}
	var all *redis.MapStringStringCmd
	_, err = r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.HSet(ctx, r.key, self.ID, value)
		all = p.HGetAll(ctx, r.key)
		p.Expire(ctx, r.key, 2*deleteAfter)
		return nil
	})
	fields, readErr := all.Result()
	if readErr != nil {
		return nil, r.explain(readErr)
	}
	entries := r.current(ctx, fields, seen)
	if err != nil { // read, but not written: out of memory, or read-only
		return entries, fmt.Errorf("this replica could not be registered: %w", r.explain(err))
	}
	return entries, nil
}

// current returns the replicas that are not stale, and deletes those that must be gone. seen is the
// time by Redis' clock.
func (r *Redis) current(ctx context.Context, fields map[string]string, seen int64) (entries []Entry) {
	for id, value := range fields {
		var e redisEntry
		if err := json.Unmarshal([]byte(value), &e); err != nil || !ValidID(id) {
			_ = r.client.HDel(ctx, r.key, id).Err() // tried again at the next look-up
			continue
		}
		switch age := e.age(seen); {
		case age < staleAfter:
			entries = append(entries, Entry{ID: id, Addr: e.Addr})
		case age > deleteAfter:
			_ = r.client.HDel(ctx, r.key, id).Err() // as above
		}
	}
	return entries
}

// age returns how old an entry is. One from the future is as old: Redis' clock was set back, or
// another Redis took over, and since then the replica has not entered itself again.
func (e redisEntry) age(now int64) time.Duration {
	return (time.Duration(now-e.Seen) * time.Millisecond).Abs()
}
