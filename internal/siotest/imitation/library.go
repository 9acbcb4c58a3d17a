package imitation

import (
	"strconv"
	"strings"
)

// Transport is how a client connects.
type Transport string

// Transports of clients.
const (
	Polling   Transport = "polling"
	WebSocket Transport = "websocket"
	Upgrade   Transport = "upgrade" // from polling to WebSocket
)

// End is how a connection ended, as a client saw it.
type End string

// Ends of a connection.
const (
	EOF         End = "end of the stream, without a Close frame"
	CloseFrame  End = "a Close frame without a code"
	CloseCode   End = "a Close frame with a code"
	ClosePacket End = "a CLOSE packet"
	Refusal     End = "an error as the answer to a request"
)

// upgrade is how a client goes from polling to WebSocket.
type upgrade int

const (
	// upgradeProbe: a probe over the WebSocket while it polls, then UPGRADE after the last poll.
	upgradeProbe upgrade = iota
	// upgradeProbeFirst: the same, and meanwhile it sends nothing, not even its CONNECT.
	upgradeProbeFirst
	// upgradeDirect: UPGRADE without a probe. It never polls after the handshake.
	upgradeDirect
)

// Library is a client library.
type Library struct {
	Name       string
	Transports []Transport
	// Recognized lists the transports over which holdfast knows by the handshake that it cannot
	// resume.
	Recognized []Transport
	// Returns reports whether the client notices such an end immediately, and reconnects.
	Returns func(End) bool

	handshake func(r request) string // of polling; the same as poll if nil
	poll      func(r request) string
	post      func(r request) string
	webSocket func(r request) string
	connect   func(namespace string) string
	upgrade   upgrade
}

// request is what a request line and headers are made of.
type request struct {
	host  string
	query string // the application's, without leading &
	sid   string // "" in a handshake
	key   string // of a WebSocket
	size  int    // of a body
}

// andSID returns the parameter sid, or nothing in a handshake.
func (r request) andSID() string {
	if r.sid == "" {
		return ""
	}
	return "&sid=" + r.sid
}

// given returns the application's query behind others.
func (r request) given() string {
	if r.query == "" {
		return ""
	}
	return "&" + r.query
}

func lines(l ...string) string { return strings.Join(l, "\r\n") + "\r\n\r\n" }

// namespaceWithComma is the CONNECT of most libraries.
func namespaceWithComma(namespace string) string {
	if namespace == "/" {
		return "40"
	}
	return "40" + namespace + ","
}

// Java listens to OkHttp's onClosed and onFailure, and not to onClosing: it does not notice a Close
// frame before its ping timeout.
var Java = &Library{
	Name:       "Java",
	Transports: []Transport{Polling, WebSocket, Upgrade},
	Recognized: []Transport{Polling, WebSocket, Upgrade},
	Returns:    func(e End) bool { return e != CloseFrame && e != CloseCode },
	handshake: func(r request) string {
		query := strings.TrimPrefix(r.given()+"&EIO=4&transport=polling", "&")
		return javaHead("GET", "polling", query, r)
	},
	poll: func(r request) string {
		return javaHead("GET", "polling", "EIO=4&transport=polling"+r.given()+r.andSID(), r)
	},
	post: func(r request) string {
		return javaHead("POST", "polling", "EIO=4&transport=polling"+r.given()+r.andSID(), r)
	},
	webSocket: func(r request) string {
		return javaHead("GET", "websocket", "EIO=4&transport=websocket"+r.given()+r.andSID(), r)
	},
	connect: namespaceWithComma,
}

func javaHead(method, transport, query string, r request) string {
	head := method + " /socket.io/?" + query + " HTTP/1.1\r\n"
	switch {
	case transport == "websocket":
		head += "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: " + r.key + "\r\nSec-WebSocket-Version: 13\r\n" +
			"Host: " + r.host + "\r\n"
	case method == "POST":
		head += "Accept: */*\r\nContent-Type: text/plain;charset=UTF-8\r\nContent-Length: " + strconv.Itoa(r.size) +
			"\r\nHost: " + r.host + "\r\nConnection: Keep-Alive\r\n"
	default:
		head += "Accept: */*\r\nHost: " + r.host + "\r\nConnection: Keep-Alive\r\n"
	}
	return head + "Accept-Encoding: gzip\r\nUser-Agent: okhttp/3.13.1\r\n\r\n"
}

// CPP looks at the code with which it answered a Close frame. That is 1000 if the frame had no
// code, and CPP then takes the end for a regular one.
var CPP = &Library{
	Name:       "C++",
	Transports: []Transport{WebSocket},
	Recognized: []Transport{WebSocket},
	Returns:    func(e End) bool { return e != CloseFrame },
	webSocket: func(r request) string {
		return lines("GET /socket.io/?EIO=4&transport=websocket&t=1795960453"+r.given()+" HTTP/1.1", "Connection: Upgrade", "Host: "+r.host,
			"Sec-WebSocket-Key: "+r.key, "Sec-WebSocket-Version: 13", "Upgrade: websocket", "User-Agent: WebSocket++/0.8.2")
	},
	connect: func(namespace string) string { return strings.TrimSuffix("40"+namespace, "/") },
}

// Swift names "/" in its CONNECT, too. While it probes, it sends nothing else.
var Swift = &Library{
	Name:       "Swift",
	Transports: []Transport{Polling, WebSocket, Upgrade},
	Recognized: []Transport{Polling, WebSocket, Upgrade},
	Returns:    func(End) bool { return true },
	handshake: func(r request) string {
		return swiftHead("GET", "polling&b64=1", "EIO=4", r)
	},
	poll: func(r request) string { return swiftHead("GET", "polling&b64=1", "EIO=4"+r.andSID(), r) },
	post: func(r request) string { return swiftHead("POST", "polling&b64=1", "EIO=4"+r.andSID(), r) },
	webSocket: func(r request) string {
		return lines("GET /socket.io/?transport=websocket"+r.given()+"&EIO=4"+r.andSID()+" HTTP/1.1",
			"Origin: http://"+r.host, "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: "+r.key,
			"Host: "+r.host)
	},
	connect: func(namespace string) string { return "40" + namespace + "," },
	upgrade: upgradeProbeFirst,
}

func swiftHead(method, transport, rest string, r request) string {
	head := []string{method + " /socket.io/?transport=" + transport + r.given() + "&" + rest + " HTTP/1.1", "Host: " + r.host}
	if method == "POST" {
		head = append(head, "Content-Type: text/plain; charset=UTF-8", "Content-Length: "+strconv.Itoa(r.size))
	}
	return lines(append(head, "Connection: keep-alive", "Accept: */*", "User-Agent: App/1 CFNetwork/1494.0.7 Darwin/23.4.0",
		"Accept-Language: en-US,en;q=0.9", "Accept-Encoding: gzip, deflate")...)
}

// CSharp sends its CONNECT by polling, and upgrades without a probe. It has no User-Agent.
var CSharp = &Library{
	Name:       "C#",
	Transports: []Transport{Polling, WebSocket, Upgrade},
	Recognized: []Transport{Polling, Upgrade},
	Returns:    func(End) bool { return true },
	handshake: func(r request) string {
		return lines("GET /socket.io/?EIO=4&transport=polling"+r.given()+" HTTP/1.1", "Host: "+r.host)
	},
	poll: func(r request) string {
		return lines("GET /socket.io/?EIO=4&transport=polling"+r.given()+r.andSID()+"&t=1795960453123 HTTP/1.1", "Host: "+r.host)
	},
	post: func(r request) string {
		return lines("POST /socket.io/?EIO=4&transport=polling"+r.given()+r.andSID()+"&t=1795960453123 HTTP/1.1", "Host: "+r.host,
			"Content-Type: text/plain; charset=utf-8", "Content-Length: "+strconv.Itoa(r.size))
	},
	webSocket: func(r request) string {
		return lines("GET /socket.io/?EIO=4&transport=websocket"+r.andSID()+r.given()+" HTTP/1.1", "Host: "+r.host,
			"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: "+r.key)
	},
	connect: namespaceWithComma,
	upgrade: upgradeDirect,
}

// Dart uses only WebSocket outside browsers.
var Dart = &Library{
	Name:       "Dart",
	Transports: []Transport{WebSocket},
	Recognized: []Transport{WebSocket},
	Returns:    func(End) bool { return true },
	webSocket: func(r request) string {
		query := strings.TrimPrefix(r.given()+"&EIO=4&transport=websocket", "&")
		return lines("GET /socket.io/?"+query+" HTTP/1.1", "user-agent: Dart/3.4 (dart:io)", "connection: Upgrade", "cache-control: no-cache",
			"accept-encoding: gzip", "sec-websocket-extensions: permessage-deflate; client_max_window_bits", "host: "+r.host,
			"sec-websocket-version: 13", "sec-websocket-key: "+r.key, "upgrade: websocket")
	},
	connect: namespaceWithComma,
}

// Libraries are all of them.
func Libraries() []*Library { return []*Library{Java, CPP, Swift, CSharp, Dart} }
