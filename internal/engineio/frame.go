package engineio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// frameError is a breach of RFC 6455 and the close code that answers it.
type frameError struct {
	code ws.StatusCode
	text string
}

func (e *frameError) Error() string {
	return fmt.Sprintf("engineio: websocket: %s (%d)", e.text, e.code)
}

// errStop ends feed early without being a breach.
var errStop = errors.New("engineio: no more frames wanted")

// maxFragments bounds how often a message may be cut up: empty fragments cost no
// memory, so nothing else would end them.
const maxFragments = 1 << 16

// frameReader takes WebSocket frames out of a byte stream that arrives in pieces of any size,
// and puts fragmented messages together. It keeps bytes only while a frame or
// message is incomplete.
type frameReader struct {
	masked    bool  // frames must be masked: they come from a client
	lost      bool  // what fn got made it panic: where the next frame begins is not known
	maxBytes  int64 // of one message; 0 is no limit
	partial   []byte
	message   []byte
	messageOp ws.OpCode // of the fragmented message being read, or 0
	fragments int
}

// incomplete is how many bytes are kept of a message, 0 if they are few.
func (r *frameReader) incomplete() int {
	if n := len(r.partial) + len(r.message); n > smallBytes {
		return n
	}
	return 0
}

// feed handles p and calls fn with each whole message (OpText, OpBinary) and control frame.
// The payload is valid, and may be changed, during the call only; p is changed by unmasking.
// Errors are *frameError, or what fn returned; rest is what was not read then. After a panic of fn's nothing more is read.
func (r *frameReader) feed(p []byte, fn func(op ws.OpCode, payload []byte) error) (rest []byte, err error) {
	if r.lost {
		return nil, errStop
	}
	r.lost = true
	rest, err = r.take(p, fn)
	r.lost = false
	return rest, err
}

func (r *frameReader) take(p []byte, fn func(op ws.OpCode, payload []byte) error) (rest []byte, err error) {
	var h ws.Header
	for len(r.partial) > 0 && len(p) > 0 {
		// Complete the frame at hand, and no more: what follows is read from p itself.
		n, whole, err := r.header(&h, r.partial)
		if err != nil {
			return p, err
		}
		need := int64(1)
		if whole {
			need = int64(n) + h.Length - int64(len(r.partial))
		}
		take := min(need, int64(len(p)))
		r.partial = append(r.partial, p[:take]...)
		p = p[take:]
		if n, whole, err = r.header(&h, r.partial); err != nil {
			return p, err
		}
		if !whole || int64(len(r.partial)) < int64(n)+h.Length {
			continue
		}
		frame := r.partial
		r.partial = nil
		if err := r.frame(&h, frame[n:], fn); err != nil {
			return p, err
		}
	}
	for len(p) > 0 {
		n, whole, err := r.header(&h, p)
		if err != nil {
			return p, err
		}
		if !whole || int64(len(p)) < int64(n)+h.Length {
			r.partial = append(r.partial, p...)
			break
		}
		end := n + int(h.Length)
		payload := p[n:end:end]
		p = p[end:]
		if err := r.frame(&h, payload, fn); err != nil {
			return p, err
		}
	}
	return nil, nil
}

// maxHeaderBytes is the longest header of a frame.
const maxHeaderBytes = 14

// header parses and checks a frame's header; n is its length. whole is false if more bytes are needed.
func (r *frameReader) header(h *ws.Header, p []byte) (n int, whole bool, err error) {
	if len(p) < 2 {
		return 0, false, nil
	}
	h.Fin = p[0]&0x80 != 0
	h.Rsv = p[0] >> 4 & 7
	h.OpCode = ws.OpCode(p[0] & 0x0f)
	h.Masked = p[1]&0x80 != 0
	h.Length = int64(p[1] & 0x7f)
	if err := r.check(h); err != nil {
		return 0, false, err
	}
	n = 2
	switch h.Length {
	case 126:
		n += 2
		if len(p) < n {
			return 0, false, nil
		}
		h.Length = int64(binary.BigEndian.Uint16(p[2:]))
	case 127:
		n += 8
		if len(p) < n {
			return 0, false, nil
		}
		h.Length = int64(binary.BigEndian.Uint64(p[2:]))
	}
	if err := r.checkLength(h); err != nil {
		return 0, false, err
	}
	if h.Masked {
		if len(p) < n+4 {
			return 0, false, nil
		}
		copy(h.Mask[:], p[n:])
		n += 4
	}
	return n, true, nil
}

func protocolError(text string) error { return &frameError{ws.StatusProtocolError, text} }

// check holds a frame's first two bytes against RFC 6455, 5.2 to 5.5. The length may still be 126 or 127,
// which stand for longer ones.
func (r *frameReader) check(h *ws.Header) error {
	switch {
	case h.Rsv != 0:
		return protocolError("reserved bits set")
	case h.OpCode.IsReserved():
		return protocolError("reserved opcode")
	case h.Masked != r.masked:
		return protocolError("wrong masking")
	case h.OpCode.IsControl() && !h.Fin:
		return protocolError("fragmented control frame")
	case h.OpCode.IsControl() && h.Length > ws.MaxControlFramePayloadSize:
		return protocolError("oversized control frame")
	case h.OpCode.IsControl():
	case h.OpCode == ws.OpContinuation && r.messageOp == 0:
		return protocolError("continuation of nothing")
	case h.OpCode != ws.OpContinuation && r.messageOp != 0:
		return protocolError("new message inside a fragmented one")
	}
	return nil
}

// checkLength holds a data frame's length against the limit. One that is written in more bytes than it needs is taken, as
// servers' libraries do: the frame is not passed on as it is.
func (r *frameReader) checkLength(h *ws.Header) error {
	limit := r.maxBytes
	if limit <= 0 {
		limit = math.MaxInt64 - maxHeaderBytes // so that a frame's whole length is an int64
	}
	switch {
	case h.Length < 0:
		return protocolError("frame length with its highest bit set")
	case !h.OpCode.IsControl() && h.Length > limit-int64(len(r.message)):
		return &frameError{ws.StatusMessageTooBig, "message over the limit"}
	}
	return nil
}

func (r *frameReader) frame(h *ws.Header, payload []byte, fn func(ws.OpCode, []byte) error) error {
	if h.Masked {
		ws.Cipher(payload, h.Mask, 0)
	}
	switch {
	case h.OpCode.IsControl():
		return fn(h.OpCode, payload)
	case h.Fin && h.OpCode != ws.OpContinuation:
		return r.deliver(h.OpCode, payload, fn)
	}
	if h.OpCode != ws.OpContinuation {
		r.messageOp = h.OpCode
	}
	if r.fragments++; r.fragments > maxFragments {
		return &frameError{ws.StatusPolicyViolation, "too many fragments"}
	}
	r.message = append(r.message, payload...)
	if !h.Fin {
		return nil
	}
	op, message := r.messageOp, r.message
	r.messageOp, r.message, r.fragments = 0, nil, 0
	return r.deliver(op, message, fn)
}

func (r *frameReader) deliver(op ws.OpCode, payload []byte, fn func(ws.OpCode, []byte) error) error {
	if op == ws.OpText && r.masked && !utf8.Valid(payload) {
		return &frameError{ws.StatusInvalidFramePayloadData, "text is not UTF-8"}
	}
	return fn(op, payload)
}

// closeCode is the status code of a CLOSE frame's payload; 1005 if it is empty (RFC 6455, 7.1.5). Errors are *frameError.
func closeCode(payload []byte) (ws.StatusCode, error) {
	switch len(payload) {
	case 0:
		return ws.StatusNoStatusRcvd, nil
	case 1:
		return 0, protocolError("half a close code")
	}
	code := ws.StatusCode(binary.BigEndian.Uint16(payload))
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014, code >= 3000 && code <= 4999:
	default:
		return code, protocolError("bad close code")
	}
	if !utf8.Valid(payload[2:]) {
		return code, &frameError{ws.StatusInvalidFramePayloadData, "close reason is not UTF-8"}
	}
	return code, nil
}
