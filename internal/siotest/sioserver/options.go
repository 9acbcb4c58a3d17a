package sioserver

import (
	"net/http"
	"slices"
	"time"
)

// The transports of Engine.IO, for Options.Transports.
const (
	Polling   = "polling"
	WebSocket = "websocket"
)

// Options of a Server. The zero value has the defaults of socket.io 4.5.
type Options struct {
	// Path is the prefix of the Engine.IO requests. Default "/socket.io/".
	Path string
	// PingInterval is the time from the handshake, or a pong, to a ping.
	// Default 25s.
	PingInterval time.Duration
	// PingTimeout is the time a pong may take. Default 20s.
	PingTimeout time.Duration
	// UpgradeTimeout is the time from the start of an upgrade to its end.
	// Default 10s.
	UpgradeTimeout time.Duration
	// ConnectTimeout is the time a client has for its first CONNECT.
	// Default 45s.
	ConnectTimeout time.Duration
	// MaxPayloadBytes limits a WebSocket message and the body of a POST.
	// Default 1000000.
	MaxPayloadBytes int64
	// Transports that the server offers. Default: polling and WebSocket.
	Transports []string
	// CORSOrigin, if set, is sent as Access-Control-Allow-Origin with every
	// response, and preflight requests are answered.
	CORSOrigin string
	// AllowRequest, if set, decides about every handshake request. The text of
	// its error is the message of the refusal.
	AllowRequest func(*http.Request) error
	// Headers, if set, adds headers to the response of each polling or
	// upgrade request. Initial is true for the handshake.
	Headers func(h http.Header, r *http.Request, initial bool)
}

func (o Options) withDefaults() Options {
	setDefault(&o.Path, "/socket.io/")
	setDefault(&o.PingInterval, 25*time.Second)
	setDefault(&o.PingTimeout, 20*time.Second)
	setDefault(&o.UpgradeTimeout, 10*time.Second)
	setDefault(&o.ConnectTimeout, 45*time.Second)
	setDefault(&o.MaxPayloadBytes, 1_000_000)
	if o.Transports == nil {
		o.Transports = []string{Polling, WebSocket}
	}
	return o
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func (o Options) offers(transport string) bool {
	return slices.Contains(o.Transports, transport)
}
