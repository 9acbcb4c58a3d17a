package upstream

import (
	"context"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
)

// Base is the scheme and host of requests for RoundTripper, which replaces them with those of a
// server.
func Base() *url.URL { return &url.URL{Scheme: "http", Host: "upstream"} }

// clientKey is the context key of a client's address.
type clientKey struct{}

// WithClient returns a context for requests that the same server must get for the same client,
// because only that server knows the client's session.
func WithClient(ctx context.Context, client netip.Addr) context.Context {
	return context.WithValue(ctx, clientKey{}, client)
}

// roundTripper is what RoundTripper and UnsharedRoundTripper return.
type roundTripper struct {
	u        *Upstream
	unshared bool
}

// RoundTrip implements http.RoundTripper. A request goes to the next server only if it was not sent
// at all.
func (t *roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	body := req.Body
	var tried [maxAttempts]*Server
	var failed error
	for n := range maxAttempts {
		s, others, err := t.route(req.Context(), tried[:n])
		if err != nil {
			closeBody(body)
			if failed != nil {
				err = failed
			}
			return nil, err
		}
		if n > 0 {
			t.u.failedOver()
		}
		last := !others || n == maxAttempts-1
		resp, err := t.send(s, req, last)
		if err == nil || last || req.Context().Err() != nil || !neverSent(err) {
			if err != nil && !last {
				closeBody(body)
			}
			return resp, err
		}
		tried[n], failed = s, err
	}
	closeBody(body)
	return nil, failed
}

// send makes the request to a server. Unless this is the last attempt, the body stays open if it
// fails.
func (t *roundTripper) send(s *Server, req *http.Request, last bool) (*http.Response, error) {
	out := *req
	to := *req.URL
	to.Scheme, to.Host = s.base.Scheme, s.base.Host
	out.URL = &to
	if !last && req.Body != nil && req.Body != http.NoBody {
		out.Body = io.NopCloser(req.Body)
	}
	if t.unshared {
		return s.unshared.RoundTrip(&out)
	}
	return s.transport.RoundTrip(&out)
}

func closeBody(b io.Closer) {
	if b != nil {
		_ = b.Close() // the request fails anyway
	}
}

// route picks the server for a request, and reports whether there are others that are up.
func (t *roundTripper) route(ctx context.Context, tried []*Server) (s *Server, others bool, err error) {
	u := t.u
	if err := u.awaitLookup(ctx); err != nil {
		return nil, false, err
	}
	client, sticky := ctx.Value(clientKey{}).(netip.Addr)
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.list) == 1 && len(tried) == 0 {
		return u.list[0], false, nil
	}
	candidates := untriedLocked(u, tried, Up)
	if len(candidates) == 0 && len(tried) == 0 {
		// One that fails its health checks may have a page that says why, and one that is down may
		// be back.
		if candidates = untriedLocked(u, nil, Unhealthy); len(candidates) == 0 {
			candidates = untriedLocked(u, nil, Down)
		}
	}
	switch {
	case len(candidates) == 0:
		return nil, false, u.noServerLocked()
	case sticky:
		s = slices.MaxFunc(candidates, func(a, b *Server) int { return compareRank(client, a, b) })
	default:
		s = candidates[rand.IntN(len(candidates))]
	}
	return s, len(candidates) > 1, nil
}

// untriedLocked returns the listed servers in a state. u.mu must be held.
func untriedLocked(u *Upstream, tried []*Server, state State) []*Server {
	var list []*Server
	for _, s := range u.list {
		if s.state == state && !slices.Contains(tried, s) {
			list = append(list, s)
		}
	}
	return list
}

// compareRank compares two servers for a client by rendezvous hashing: each client has an order of
// all servers, the same in every holdfast. A server that comes or goes changes it for its own
// clients only.
func compareRank(client netip.Addr, a, b *Server) int {
	x, y := rank(client, a), rank(client, b)
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

func rank(client netip.Addr, s *Server) uint64 {
	h := fnv.New64a()
	bytes := client.As16()
	_, _ = h.Write(bytes[:]) // never fails
	_, _ = io.WriteString(h, s.String())
	x := h.Sum64()
	// FNV alone changes the high bits too little: murmur3's finalizer.
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
