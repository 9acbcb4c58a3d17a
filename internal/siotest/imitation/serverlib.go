package imitation

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
)

// ServerLibrary is a server library that speaks Engine.IO 3 and Socket.IO 4 only.
type ServerLibrary struct {
	Name string
	// Binary reports whether it can send and receive binary data.
	Binary bool

	sid          func() string
	connectReply func(namespace string) string // without Engine.IO's 4
	refusal      func(namespace string) string // of a CONNECT; "" if there is no refusal
	early        func(namespace string) bool   // handlers run before the CONNECT reply
	keepsQuery   bool                          // a CONNECT's query is part of the name
	endsAll      bool                          // the end of "/" is the end of all namespaces
	closeText    string                        // what disconnect(true) sends first

	pings       bool // it sends PING, too
	echoesPings bool // its PONG has the data of the PING

	openAlone      bool // its answer to a handshake has no packet but OPEN
	maxPolled      int  // packets in one answer
	maxPostBytes   int  // it drops the connection beyond
	maxPostPackets int  // it answers 400 beyond
	// losesPosted says that it ignores everything after the text of a binary event in a POST.
	losesPosted bool
	// closesHTTP says that it closes the connection after each answer, although that says
	// "keep-alive".
	closesHTTP bool
	postAnswer string
	unknownSID answer
	denied     answer // of the application's refusal of a handshake
	noSocket   answer // if it takes no WebSockets; none if it always does
	fragment   int    // bytes of a text that goes out in several frames
}

type answer struct {
	status int
	body   string
}

// NeedsSockets reports whether it always takes WebSockets.
func (l *ServerLibrary) NeedsSockets() bool { return l.noSocket.status == 0 }

// Netty is netty-socketio 1.7.
var Netty = &ServerLibrary{
	Name: "netty-socketio", Binary: true,
	sid: func() string {
		b := randomHex(16)
		return b[:8] + "-" + b[8:12] + "-" + b[12:16] + "-" + b[16:20] + "-" + b[20:]
	},
	connectReply: func(namespace string) string { return "0" + prefix(namespace, "") },
	refusal:      func(namespace string) string { return "4" + prefix(namespace, ",") + `"Invalid namespace"` },
	early:        func(namespace string) bool { return namespace != "/" },
	closeText:    "1",
	pings:        true, echoesPings: true, openAlone: true,
	maxPolled: 50, maxPostBytes: 64 << 10, losesPosted: true, closesHTTP: true,
	postAnswer: "ok", unknownSID: answer{500, ""}, denied: answer{401, ""},
	noSocket: answer{400, `{"code":0,"message":"Transport unknown"}`}, fragment: 8192,
}

// Python is python-socketio 4 with python-engineio 3, as Flask-SocketIO 4 uses them.
var Python = &ServerLibrary{
	Name: "python-socketio 4", Binary: true,
	sid:          func() string { return randomHex(16) },
	connectReply: func(namespace string) string { return "0" + prefix(namespace, "") },
	refusal:      func(namespace string) string { return "4" + prefix(namespace, "") },
	early:        func(string) bool { return true },
	endsAll:      true, closeText: "1",
	echoesPings: true, maxPostPackets: 16,
	postAnswer: "OK", unknownSID: answer{400, `"Invalid session"`}, denied: answer{401, `"not you"`},
	noSocket: answer{400, `"Bad Request"`},
}

// PHP is phpsocket.io 2.
var PHP = &ServerLibrary{
	Name:         "phpsocket.io",
	sid:          func() string { return randomHex(12) },
	connectReply: func(namespace string) string { return "0" + prefix(namespace, "") },
	refusal:      func(namespace string) string { return "4" + prefix(namespace, ",") + `"Invalid namespace"` },
	early:        func(string) bool { return false },
	keepsQuery:   true,
	closeText:    "41", openAlone: true,
	postAnswer: "ok", unknownSID: answer{403, `{"code":"1","message":"Session ID unknown"}`},
	denied: answer{403, `{"code":"not you","message":"not you"}`},
}

// ServerLibraries are all of them.
func ServerLibraries() []*ServerLibrary { return []*ServerLibrary{Netty, Python, PHP} }

// prefix returns how a packet names its namespace: "/" is not named.
func prefix(namespace, comma string) string {
	if namespace == "/" {
		return ""
	}
	return namespace + comma
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// frame3 is an Engine.IO packet.
type frame3 struct {
	binary bool
	data   string // with the type
}

// encodePayload3 encodes packets in the binary form: all three libraries use it for text, too.
func encodePayload3(frames []frame3) string {
	var out []byte
	for _, f := range frames {
		form := byte(0)
		if f.binary {
			form = 1
		}
		out = append(out, form)
		for _, digit := range []byte(strconv.Itoa(len(f.data))) {
			out = append(out, digit-'0')
		}
		out = append(append(out, 0xff), f.data...)
	}
	return string(out)
}

// decodePayload3 decodes a payload in the binary form.
func decodePayload3(body string) (frames []frame3, err error) {
	for i := 0; i < len(body); {
		f := frame3{binary: body[i] == 1}
		n := 0
		for i++; i < len(body) && body[i] != 0xff; i++ {
			n = n*10 + int(body[i])
		}
		if i++; body[i-1:] == "" || n > len(body)-i {
			return nil, fmt.Errorf("imitation: payload %q", body)
		}
		f.data = body[i : i+n]
		frames = append(frames, f)
		i += n
	}
	return frames, nil
}
