package engineio

import (
	"net/http"
	"strconv"
	"strings"
)

// answerState says whether the last answer to a poll has arrived:
//
//	arrived  -> unproven  an answer with packets was written
//	arrived  -> pinged    the same, with Options.ConfirmByPong and a ping in it
//	pinged   -> ponged    a pong came before a poll that shows that the answer arrived: it may be
//	                      the late pong of another ping
//	unproven, pinged, ponged -> arrived  the next poll, or the upgrade
type answerState uint8

const (
	answerArrived answerState = iota // or there was none
	answerUnproven
	answerPinged
	answerPonged
)

var answerStateNames = [...]string{"arrived", "unproven", "pinged", "ponged"}

// String implements fmt.Stringer.
func (a answerState) String() string { return nameOf(answerStateNames[:], a) }

// pingUnproven reports whether a ping went with an answer that has not been shown to have arrived.
func (a answerState) pingUnproven() bool { return a >= answerPinged }

// moveLocked is the only place where an answerState changes. It reports whether the transition
// exists.
func (a *answerState) moveLocked(to answerState) bool {
	switch to {
	case answerArrived:
	case answerUnproven, answerPinged:
		if *a != answerArrived {
			return false
		}
	case answerPonged:
		if *a != answerPinged {
			return false
		}
	}
	*a = to
	return true
}

// pollAnswer is packets, or an error code.
type pollAnswer struct {
	body []byte
	code int // if body is nil
}

// Answer is an answer to a polling request.
type Answer struct {
	Status int
	Body   []byte
	// Type is the body's content type; empty without a body.
	Type string
	// Code is the Engine.IO error code that the body explains, or -1.
	Code int
}

// The reference server's error codes for refused requests.
const (
	CodeUnknownTransport = iota
	CodeUnknownSID
	CodeBadHandshakeMethod
	CodeBadRequest
	CodeForbidden
	CodeUnsupportedProtocolVersion
)

var errorMessages = [...]string{
	"Transport unknown", "Session ID unknown", "Bad handshake method", "Bad request", "Forbidden",
	"Unsupported protocol version",
}

// ErrorAnswer refuses a request as the reference server does: with status 400, or 403 for
// CodeForbidden, and the code with its message.
func ErrorAnswer(code int) Answer {
	status := http.StatusBadRequest
	if code == CodeForbidden {
		status = http.StatusForbidden
	}
	body := `{"code":` + strconv.Itoa(code) + `,"message":"` + errorMessages[code] + `"}`
	return Answer{Status: status, Body: []byte(body), Type: "application/json", Code: code}
}

const (
	textType = "text/plain; charset=UTF-8"
	okType   = "text/html"
)

// packetsAnswer is an answer with packets.
func (o *Options) packetsAnswer(body []byte) Answer {
	contentType := textType
	if o.pollFormat() == binaryPayload3 {
		contentType = binaryType3
	}
	return Answer{Status: http.StatusOK, Body: body, Type: contentType, Code: -1}
}

func (o *Options) answerOf(r pollAnswer) Answer {
	if r.body != nil {
		return o.packetsAnswer(r.body)
	}
	return ErrorAnswer(r.code)
}

// requestID returns a request's "t" parameter if it distinguishes the request from others, or "".
// Applications may set a fixed value for all requests, and some clients send only the time, in
// seconds.
func (o *Options) requestID(t string) string {
	if t == o.HandshakeID || strings.Trim(t, "0123456789") == "" {
		return ""
	}
	return t
}
