package knownclients

import (
	"net/http"
	"regexp"
	"strings"
)

// Client is a row of the table: a library whose clients cannot resume, or break on offsets.
type Client struct {
	Name   string // of the library, as docs/compatibility.md names it
	Sign   string // what it is recognized by, in words
	Source string // where that is known from
	match  func(*handshake) bool
}

// Table lists the clients that are recognized. The first row that matches counts.
var Table = []Client{
	{
		Name: "python-socketio", Sign: "`transport` before `EIO` in the query, and `t` in seconds",
		Source: "captured from 5.7.2: requests, websocket-client and aiohttp, both transports",
		match:  func(h *handshake) bool { return h.transportFirst && epochTime.MatchString(h.t) },
	},
	{
		Name: "socket.io-client-cpp", Sign: "User-Agent `WebSocket++`, or `t` in seconds",
		Source: "socketio/socket.io-client-cpp, `sio_client_impl.cpp`; zaphoyd/websocketpp, `version.hpp`",
		match: func(h *handshake) bool {
			return webSocketPP.MatchString(h.userAgent) || epochTime.MatchString(h.t) && h.websocket
		},
	},
	{
		Name: "socket.io-client-swift", Sign: "`transport` before `EIO` in the query",
		Source: "socketio/socket.io-client-swift, `SocketEngine.swift`, createURLs",
		match:  func(h *handshake) bool { return h.transportFirst },
	},
	{
		Name: "socket.io-client-java", Sign: "User-Agent `okhttp`, without `Origin` and `t`, which React Native sends",
		Source: "socketio/engine.io-client-java, `Polling.java`, `WebSocket.java`; facebook/react-native, `WebSocketModule.kt`",
		match:  func(h *handshake) bool { return okhttp.MatchString(h.userAgent) && !h.origin && h.t == "" },
	},
	{
		Name: "socket.io-client-dart", Sign: "User-Agent `dart:io`",
		Source: "dart-lang/sdk, `HttpClient.userAgent`. It can resume, but handlers get a list with the offset instead of " +
			"their argument: rikulo/socket.io-client-dart, `socket.dart`, emitEvent",
		match: userAgent(`\(dart:io\)`),
	},
	{
		Name: "rust-socketio", Sign: "over polling, `t` is a long number",
		Source: "1c3t3a/rust-socketio, `polling.rs`, address",
		match:  func(h *handshake) bool { return h.polling && epochTime.MatchString(h.t) },
	},
	{
		Name: "socket.io-client-csharp", Sign: "over polling, neither User-Agent nor `t`",
		Source: "doghappy/socket.io-client-csharp, `SessionBase.cs`, `HttpSession.cs`: version 4 begins with polling unless told otherwise",
		match:  func(h *handshake) bool { return h.polling && h.userAgent == "" && h.t == "" },
	},
}

var (
	// epochTime matches seconds or milliseconds since 1970, and checksums. JavaScript clients write
	// a time in base 64 or 36, which has letters.
	epochTime   = regexp.MustCompile(`^[0-9]{9,}(\.[0-9]*)?$`)
	webSocketPP = regexp.MustCompile(`WebSocket\+\+/`)
	okhttp      = regexp.MustCompile(`^okhttp/`)
)

func userAgent(pattern string) func(*handshake) bool {
	re := regexp.MustCompile(pattern)
	return func(h *handshake) bool { return re.MatchString(h.userAgent) }
}

// handshake is what the table goes by.
type handshake struct {
	userAgent      string
	t              string
	origin         bool
	websocket      bool
	polling        bool
	transportFirst bool // the query has transport before EIO
}

// Identify returns the row of the table that an Engine.IO handshake matches, or nil.
func Identify(r *http.Request) *Client {
	h := handshake{userAgent: r.UserAgent(), origin: r.Header.Get("Origin") != ""}
	transportSeen := false
	for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
		key, value, _ := strings.Cut(pair, "=")
		switch key {
		case "EIO":
			h.transportFirst = transportSeen
		case "transport":
			transportSeen = true
			h.websocket, h.polling = value == "websocket", value == "polling"
		case "t":
			h.t = value
		}
	}
	for i := range Table {
		if Table[i].match(&h) {
			return &Table[i]
		}
	}
	return nil
}
