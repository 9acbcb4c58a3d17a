package proxy

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/httpmsg"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/internal/upstream"
)

// A server of socket.io 1 or 2 speaks Engine.IO 3 and Socket.IO 4. For clients of later versions
// holdfast translates (translate.go). To such a server every handshake is a connection to "/",
// which its application sees. So holdfast answers the handshakes of these clients itself, and makes
// one with the server only for a CONNECT that resumes nothing: never for a client that returns.

// upstreamProtocol is the version of Engine.IO that the upstream speaks. It is safe for concurrent
// use.
type upstreamProtocol struct {
	configured config.Protocol                   // immutable
	version    atomic.Pointer[engineio.Protocol] // nil while it is unknown

	asking chan struct{} // 1: a slot for the handshake that asks the upstream
}

func newUpstreamProtocol(configured config.Protocol) *upstreamProtocol {
	p := &upstreamProtocol{configured: configured, asking: make(chan struct{}, 1)}
	switch configured {
	case config.ProtocolV4:
		p.version.Store(new(engineio.V4))
	case config.ProtocolV3:
		p.version.Store(new(engineio.V3))
	case config.ProtocolAuto:
	}
	return p
}

// isV3 reports whether the upstream is known to speak version 3.
func (p *upstreamProtocol) isV3() bool {
	v := p.version.Load()
	return v != nil && *v == engineio.V3
}

// forget makes the next handshake ask again, if the version is not configured: another server may
// be behind the address now.
func (p *upstreamProtocol) forget() {
	if p.configured == config.ProtocolAuto {
		p.version.Store(nil)
	}
}

// ask returns the version. If the version is unknown, ask makes this client's handshake to find it
// out. Other clients wait for the result.
func (p *upstreamProtocol) ask(ctx context.Context, to *upstream.Upstream, log *slog.Logger, req engineio.Request) (engineio.Protocol, error) {
	if v := p.version.Load(); v != nil {
		return *v, nil
	}
	select {
	case p.asking <- struct{}{}:
		defer func() { <-p.asking }()
	case <-ctx.Done():
		return engineio.V4, ctx.Err()
	}
	if v := p.version.Load(); v != nil {
		return *v, nil
	}
	v, err := detectProtocol(ctx, to, req)
	if err != nil {
		return v, err
	}
	p.version.Store(&v)
	log.Info("detected the upstream's version of Engine.IO", "version", v.String())
	return v, nil
}

// detectProtocol makes a handshake over polling, and closes the session that it opens. Over
// WebSocket the versions look alike.
func detectProtocol(ctx context.Context, u *upstream.Upstream, req engineio.Request) (engineio.Protocol, error) {
	req = req.ForPolling()
	req.AnyProtocol = true
	conn, err := u.Dial(ctx, req)
	switch {
	case engineio.RefusesVersion(err):
		return engineio.V3, nil
	case err != nil:
		return engineio.V4, err
	}
	conn.Close()
	return conn.Protocol(), nil
}

// translatedRequest returns a client's handshake for a server of version 3. connect is the CONNECT
// packet for which it is made, or nil. query is what became of its auth.
func translatedRequest(req engineio.Request, connect []byte, keys []string) (translated engineio.Request, query string) {
	query = socketio.AuthQuery(connect, keys)
	drop := []string{"EIO", "transport", "t", "b64", "sid"}
	for pair := range strings.SplitSeq(query, "&") {
		key, _, _ := strings.Cut(pair, "=")
		drop = append(drop, key) // two values would make a list
	}
	pairs := []string{"EIO=3", "transport=websocket"}
	for pair := range strings.SplitSeq(req.RawQuery, "&") {
		key, _, _ := strings.Cut(pair, "=")
		if key != "" && !slices.Contains(drop, key) {
			pairs = append(pairs, pair)
		}
	}
	if query != "" {
		pairs = append(pairs, query)
	}
	return engineio.Request{
		Protocol: engineio.V3, WebSocket: true, PollIfRefused: true,
		Path: req.Path, RawQuery: strings.Join(pairs, "&"), Host: req.Host, Header: httpmsg.WithoutCookie(req.Header, "io"),
	}, query
}
