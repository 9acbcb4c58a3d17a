package engineio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// frameError is a violation of RFC 6455, with the close code that answers it.
type frameError struct {
	code ws.StatusCode
	text string
}

func (e *frameError) Error() string {
	return fmt.Sprintf("engineio: websocket: %s (%d)", e.text, e.code)
}

// errStop makes feed return early without a violation.
var errStop = errors.New("engineio: no more frames wanted")

// maxFragments limits the fragments of a message: empty ones take no memory, so no other limit ends
// them.
const maxFragments = 1 << 16

// frameReader parses WebSocket frames from a byte stream that arrives in pieces of any size, and
// assembles fragmented messages. It keeps bytes only while a frame or message is incomplete.
type frameReader struct {
	masked    bool  // frames must be masked: they come from a client
	outOfSync bool  // fn panicked, so it is unknown where the next frame begins
	maxBytes  int64 // of one message; 0 is no limit
	partial   []byte
	message   []byte
	messageOp ws.OpCode // of the current fragmented message, or 0
	fragments int
}

// incomplete returns how many bytes are kept of an incomplete message, or 0 if they are few.
func (r *frameReader) incomplete() int {
	if n := len(r.partial) + len(r.message); n > smallBytes {
		return n
	}
	return 0
}

// feed parses p and calls fn with each whole message (OpText, OpBinary) and each control frame. The
// payload is valid during the call only, and fn may change it; unmasking changes p. The error is a
// *frameError, or from fn; rest is what was not parsed then. After a panic in fn, feed parses
// nothing more.
func (r *frameReader) feed(p []byte, fn func(op ws.OpCode, payload []byte) error) (rest []byte, err error) {
	if r.outOfSync {
		return nil, errStop
	}
	r.outOfSync = true
	rest, err = r.parse(p, fn)
	r.outOfSync = false
	return rest, err
}

func (r *frameReader) parse(p []byte, fn func(op ws.OpCode, payload []byte) error) (rest []byte, err error) {
	var h ws.Header
	for len(r.partial) > 0 && len(p) > 0 {
		// Complete the current frame only: the next ones are parsed from p without copying.
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

// maxHeaderBytes is the length of the longest frame header.
const maxHeaderBytes = 14

// header parses and checks a frame's header. n is its length; whole is false if more bytes are
// needed.
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

// check checks a frame's first two bytes (RFC 6455, 5.2 to 5.5). A length of 126 or 127 still
// stands for a longer one.
func (r *frameReader) check(h *ws.Header) error {
	switch {
	case h.Rsv != 0:
		return protocolError("reserved bits set")
	case h.OpCode.IsReserved():
		return protocolError("reserved opcode")
	case h.Masked != r.masked:
		return protocolError("invalid masking")
	case h.OpCode.IsControl() && !h.Fin:
		return protocolError("fragmented control frame")
	case h.OpCode.IsControl() && h.Length > ws.MaxControlFramePayloadSize:
		return protocolError("oversized control frame")
	case h.OpCode.IsControl():
	case h.OpCode == ws.OpContinuation && r.messageOp == 0:
		return protocolError("continuation frame without a message to continue")
	case h.OpCode != ws.OpContinuation && r.messageOp != 0:
		return protocolError("new message inside a fragmented one")
	}
	return nil
}

// checkLength checks a data frame's length against the limit. It accepts a length written in more
// bytes than necessary, as servers' libraries do: the frame itself is not passed on.
func (r *frameReader) checkLength(h *ws.Header) error {
	limit := r.maxBytes
	if limit <= 0 {
		limit = math.MaxInt64 - maxHeaderBytes // a frame's whole length fits into an int64
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

// closeCode returns the code in a Close frame's payload, or 1005 if that is empty (RFC 6455,
// 7.1.5). The error is a *frameError.
func closeCode(payload []byte) (ws.StatusCode, error) {
	switch len(payload) {
	case 0:
		return ws.StatusNoStatusRcvd, nil
	case 1:
		return 0, protocolError("close frame with half a code")
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

// unparsed takes the bytes that the reader keeps, in a form that another reader can parse.
func (r *frameReader) unparsed() []byte {
	var b []byte
	if r.messageOp != 0 {
		e := Encoder{format: serverFrames}
		e.frame(r.messageOp, 0, r.message, nil, nil)
		b = mask(e.buf, len(r.message))
		b[0] &^= finBit
	}
	b = append(b, r.partial...)
	*r = frameReader{masked: r.masked, maxBytes: r.maxBytes}
	return b
}

// mask turns an unmasked frame into a masked one, with a mask that changes nothing.
func mask(frame []byte, payload int) []byte {
	n := len(frame) - payload
	b := append([]byte(nil), frame[:n]...)
	b[1] |= 0x80
	b = append(b, 0, 0, 0, 0)
	return append(b, frame[n:]...)
}
