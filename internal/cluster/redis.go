package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// staleAfter is how old an entry may be to count, in Redis' own time.
	staleAfter = 15 * time.Second
	// deleteAfter is how old an entry must be for others to delete it.
	deleteAfter = time.Minute
)

// Redis is a Book in a hash of Redis or Valkey. Each replica writes its own field, and all read all.
type Redis struct {
	client redis.UniversalClient
	key    string
}

// redisEntry is the value of a replica's field.
type redisEntry struct {
	Addr string `json:"addr"`
	Seen int64  `json:"seen"` // in milliseconds, by Redis' clock
}

// NewRedis returns the Book of the cluster called name. More than one URL, or cluster=true in the first,
// means Redis Cluster; master_name in the first means Sentinel.
func NewRedis(urls []string, name string) (*Redis, error) {
	client, err := redisClient(urls)
	if err != nil {
		return nil, err
	}
	return &Redis{client, "holdfast:{" + name + "}"}, nil
}

func redisClient(urls []string) (redis.UniversalClient, error) {
	u, err := url.Parse(urls[0])
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	q := u.Query()
	switch {
	case q.Get("master_name") != "":
		o, err := redis.ParseFailoverURL(urls[0])
		if err != nil {
			return nil, err
		}
		for _, more := range urls[1:] {
			if u, err := url.Parse(more); err == nil {
				o.SentinelAddrs = append(o.SentinelAddrs, u.Host)
			}
		}
		o.MaxRetries = -1
		return redis.NewFailoverClient(o), nil
	case len(urls) > 1 || q.Get("cluster") == "true":
		q.Del("cluster")
		for _, more := range urls[1:] {
			if u, err := url.Parse(more); err == nil {
				q.Add("addr", u.Host)
			}
		}
		u.RawQuery = q.Encode()
		o, err := redis.ParseClusterURL(u.String())
		if err != nil {
			return nil, err
		}
		return redis.NewClusterClient(o), nil
	}
	o, err := redis.ParseURL(urls[0])
	if err != nil {
		return nil, err
	}
	o.MaxRetries = -1
	return redis.NewClient(o), nil
}

// Check asks Redis once, so that a wrong address or password shows at the start.
func (r *Redis) Check(ctx context.Context) error { return r.client.Ping(ctx).Err() }

// Refused reports whether Redis answered, and refuses this client.
func Refused(err error) bool {
	if err == nil {
		return false
	}
	for _, begin := range []string{"WRONGPASS", "NOAUTH", "NOPERM", "ERR AUTH", "ERR invalid password", "ERR DB index", "ERR invalid DB"} {
		if strings.HasPrefix(err.Error(), begin) {
			return true
		}
	}
	return false
}

// Watch implements Book.
func (r *Redis) Watch(ctx context.Context, self Entry, now <-chan struct{}, found func([]Entry, error)) {
	poll(ctx, now, func(ctx context.Context) { found(r.lookup(ctx, self)) })
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = r.client.HDel(ctx, r.key, self.ID).Err() // otherwise the entry becomes stale
	_ = r.client.Close()
}

// lookup makes self known and returns all replicas that did so recently.
func (r *Redis) lookup(ctx context.Context, self Entry) ([]Entry, error) {
	clock, err := r.client.Time(ctx).Result()
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
		return nil, readErr
	}
	entries := r.current(ctx, fields, seen)
	if err != nil { // read, but not written: out of memory, or read-only
		return entries, fmt.Errorf("this replica could not be entered: %w", err)
	}
	return entries, nil
}

// current returns the replicas that are not stale, and deletes those that must be gone. seen is the time by
// Redis' clock.
func (r *Redis) current(ctx context.Context, fields map[string]string, seen int64) (entries []Entry) {
	for id, value := range fields {
		var e redisEntry
		if err := json.Unmarshal([]byte(value), &e); err != nil || !ValidID(id) {
			_ = r.client.HDel(ctx, r.key, id).Err() // tried again at the next look-up
			continue
		}
		switch age := time.Duration(seen-e.Seen) * time.Millisecond; {
		case age < staleAfter:
			entries = append(entries, Entry{ID: id, Addr: e.Addr})
		case age > deleteAfter:
			_ = r.client.HDel(ctx, r.key, id).Err() // as above
		}
	}
	return entries
}
