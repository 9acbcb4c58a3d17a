package proxy

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/httpmsg"
	"github.com/holdfast/holdfast/internal/limit"
	"github.com/holdfast/holdfast/session"
)

// settings is the configuration in force, with what is derived from the parts that Reload can
// change. It is immutable.
type settings struct {
	config.Config
	trusted          httpmsg.TrustedProxies
	paths            []string // EngineIO.Paths without the trailing slash
	clientFilter     func(query url.Values, userAgent string) bool
	recoverable      func(namespace string) bool
	handshakeRate    *limit.AddressRate
	failedResumeRate *limit.AddressRate
	aliveTimeout     time.Duration // the constant, except in tests
}

// newSettings returns the settings for a valid configuration. Rates whose limit is the same as in
// old keep their counts. old may be nil.
func newSettings(cfg config.Config, old *settings) (*settings, error) {
	set := &settings{Config: cfg, trusted: cfg.TrustedPrefixes(), recoverable: cfg.Recovery.Namespaces.Filter(), aliveTimeout: aliveTimeout}
	var err error
	if set.clientFilter, err = cfg.Recovery.Clients.Filter(); err != nil {
		return nil, err
	}
	for _, p := range cfg.EngineIO.Paths {
		set.paths = append(set.paths, strings.TrimSuffix(p, "/"))
	}
	set.handshakeRate = limit.NewAddressRate(cfg.Limits.HandshakesPerSecondPerAddress)
	set.failedResumeRate = limit.NewAddressRate(cfg.Limits.FailedResumesPerSecondPerAddress)
	if old != nil && old.Limits.HandshakesPerSecondPerAddress == cfg.Limits.HandshakesPerSecondPerAddress {
		set.handshakeRate = old.handshakeRate
	}
	if old != nil && old.Limits.FailedResumesPerSecondPerAddress == cfg.Limits.FailedResumesPerSecondPerAddress {
		set.failedResumeRate = old.failedResumeRate
	}
	return set, nil
}

// belowPaths returns the part of path after one of the Engine.IO paths and its slash. The trailing
// slash may be missing, because clients have the option addTrailingSlash: false. The upstream
// decides which form it serves.
func (set *settings) belowPaths(path string) (rest string, ok bool) {
	for _, p := range set.paths {
		rest, ok := strings.CutPrefix(path, p)
		if ok && rest == "" {
			return "", true
		}
		if rest, slash := strings.CutPrefix(rest, "/"); ok && slash {
			return rest, true
		}
	}
	return "", false
}

// sessionLimits returns the limits for package session.
func (set *settings) sessionLimits() session.Limits {
	b := set.Recovery.Buffer
	return session.Limits{
		MaxPackets: b.MaxPackets, MaxBytes: b.MaxBytes.Int(), WindowBytes: b.Window.Int(),
		TakeoversPerMinute: set.Limits.TakeoversPerMinutePerSession,
		ReplayAckRequested: set.Recovery.AckEvents == config.AtLeastOnce,
		KeyedAtMostOnce:    set.Recovery.Keyed.Redeliver == config.AtMostOnce,
		Judge:              judge,
	}
}

// isEngineIO reports whether a request is Engine.IO traffic. A request for the client bundle, which
// is below the same path, is not.
func (set *settings) isEngineIO(r *http.Request) bool {
	_, ok := set.belowPaths(r.URL.Path)
	return ok && (httpmsg.HasParameter(r.URL.RawQuery, "EIO") || httpmsg.HasParameter(r.URL.RawQuery, "transport"))
}

// handles reports whether client.serve handles a request that names a client's sid. Other requests
// go to the upstream. Most of them are CORS preflights, which the upstream can answer without
// knowing the sid.
func handles(r *http.Request, q url.Values) bool {
	switch q.Get("transport") {
	case "polling", "websocket":
		return r.Method == http.MethodGet || r.Method == http.MethodPost && !httpmsg.IsUpgrade(r)
	}
	return false
}
