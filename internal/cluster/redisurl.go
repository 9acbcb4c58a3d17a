package cluster

import (
	"fmt"
	"net"
	"net/url"

	"github.com/redis/go-redis/v9"
)

// The ports that Redis and Sentinel listen on unless told otherwise.
const (
	redisPort    = "6379"
	sentinelPort = "26379"
)

// What the client library does is tried again by the next look-up, and each look-up has a deadline.
const (
	noRetries  = -1 // of commands
	oneAttempt = 1  // to connect
	onePool    = -1 // no connections of their own for pipelines
)

// clientOptions configure a client of one Redis, of Sentinel, or of Redis Cluster.
type clientOptions struct {
	one      *redis.Options
	sentinel *redis.FailoverOptions
	cluster  *redis.ClusterOptions
}

// dial makes a client. It connects when it is used.
func (o clientOptions) dial() redis.UniversalClient {
	switch {
	case o.sentinel != nil:
		return redis.NewFailoverClient(o.sentinel)
	case o.cluster != nil:
		return redis.NewClusterClient(o.cluster)
	default:
		return redis.NewClient(o.one)
	}
}

// redisOptions reads the URLs of cluster.peers.
func redisOptions(urls []string) (o clientOptions, err error) {
	u, err := url.Parse(urls[0])
	if err != nil {
		return o, fmt.Errorf("cluster: %w", err)
	}
	switch q := u.Query(); {
	case q.Has("master_name"):
		o.sentinel, err = sentinelOptions(u, urls[1:])
	case len(urls) > 1 || q.Get("cluster") == "true":
		o.cluster, err = clusterOptions(u, urls[1:])
	default:
		o.one, err = redis.ParseURL(urls[0])
		if err == nil {
			o.one.MaxRetries, o.one.DialerRetries = noRetries, oneAttempt
			o.one.PipelinePoolSize, o.one.ContextTimeoutEnabled = onePool, true
		}
	}
	return o, err
}

func sentinelOptions(u *url.URL, more []string) (*redis.FailoverOptions, error) {
	text, err := withNodes(u, more, sentinelPort)
	if err != nil {
		return nil, err
	}
	o, err := redis.ParseFailoverURL(text)
	if err != nil {
		return nil, err
	}
	o.MaxRetries, o.DialerRetries, o.PipelinePoolSize, o.ContextTimeoutEnabled = noRetries, oneAttempt, onePool, true
	return o, nil
}

func clusterOptions(u *url.URL, more []string) (*redis.ClusterOptions, error) {
	q := u.Query()
	q.Del("cluster") // a word of ours
	u.RawQuery = q.Encode()
	text, err := withNodes(u, more, redisPort)
	if err != nil {
		return nil, err
	}
	o, err := redis.ParseClusterURL(text)
	if err != nil {
		return nil, err
	}
	o.DialerRetries, o.PipelinePoolSize, o.ContextTimeoutEnabled = oneAttempt, onePool, true
	return o, nil
}

// withNodes returns u with the hosts of more URLs in its query, as the client library wants them.
// Hosts without a port get this one.
func withNodes(u *url.URL, more []string, port string) (string, error) {
	u.Host = withPort(u, port)
	q := u.Query()
	for _, text := range more {
		node, err := url.Parse(text)
		if err != nil {
			return "", fmt.Errorf("cluster: %w", err)
		}
		q.Add("addr", withPort(node, port))
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

func withPort(u *url.URL, port string) string {
	if p := u.Port(); p != "" {
		port = p
	}
	return net.JoinHostPort(u.Hostname(), port)
}
