package wire

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// MaxFrameHeader is the length of the longest header of an unmasked frame.
const MaxFrameHeader = 10

// CloseError is a violation of the WebSocket protocol by the peer.
type CloseError struct {
	Code   ws.StatusCode // to close the connection with
	Reason string
}

func (e *CloseError) Error() string {
	return fmt.Sprintf("wire: websocket: %s (%d)", e.Reason, e.Code)
}

// MessageReader reads WebSocket messages. It joins fragments; control frames
// are messages of their own. Not safe for concurrent use.
type MessageReader struct {
	br       *bufio.Reader
	state    ws.State // side, and whether a fragmented message is open
	maxBytes int64    // of one message; 0: any

	fragOp ws.OpCode // of the open fragmented message
	frag   []byte
}

// NewMessageReader reads from br, as the server or the client of the
// connection that side says. A message longer than maxBytes is an error
// unless maxBytes is 0.
func NewMessageReader(br *bufio.Reader, side ws.State, maxBytes int64) *MessageReader {
	return &MessageReader{br: br, state: side, maxBytes: maxBytes}
}

// Next returns the next message: op is OpText, OpBinary, OpPing, OpPong or
// OpClose. The payload belongs to the caller. Errors are those of the
// connection, or a *CloseError.
func (m *MessageReader) Next() (op ws.OpCode, payload []byte, err error) {
	for {
		h, err := ws.ReadHeader(m.br)
		if err != nil {
			if errors.Is(err, ws.ErrHeaderLengthMSB) || errors.Is(err, ws.ErrHeaderLengthUnexpected) {
				return 0, nil, &CloseError{ws.StatusProtocolError, err.Error()}
			}
			return 0, nil, err
		}
		if err := ws.CheckHeader(h, m.state); err != nil {
			return 0, nil, &CloseError{ws.StatusProtocolError, err.Error()}
		}
		if m.maxBytes > 0 && h.Length+int64(len(m.frag)) > m.maxBytes && !h.OpCode.IsControl() {
			return 0, nil, &CloseError{ws.StatusMessageTooBig, "message too big"}
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(m.br, payload); err != nil {
			return 0, nil, err
		}
		if h.Masked {
			ws.Cipher(payload, h.Mask, 0)
		}
		if h.OpCode.IsControl() {
			return h.OpCode, payload, nil
		}
		if h.OpCode != ws.OpContinuation {
			m.fragOp = h.OpCode
		}
		if !h.Fin {
			m.state = m.state.Set(ws.StateFragmented)
			m.frag = append(m.frag, payload...)
			continue
		}
		if m.state.Fragmented() {
			m.state = m.state.Clear(ws.StateFragmented)
			payload = append(m.frag, payload...)
			m.frag = nil
		}
		if m.fragOp == ws.OpText && !utf8.Valid(payload) {
			return 0, nil, &CloseError{ws.StatusInvalidFramePayloadData, "text is not UTF-8"}
		}
		return m.fragOp, payload, nil
	}
}

// PutFrameHeader makes an unmasked frame of buf, whose first MaxFrameHeader
// bytes are free and whose rest is the payload. It returns the frame, which
// is a part of buf, and the length of its header.
func PutFrameHeader(buf []byte, op ws.OpCode) (frame []byte, header int) {
	n := len(buf) - MaxFrameHeader
	switch {
	case n < 126:
		header = 2
		buf[MaxFrameHeader-1] = byte(n)
	case n < 1<<16:
		header = 4
		buf[MaxFrameHeader-3] = 126
		buf[MaxFrameHeader-2] = byte(n >> 8)
		buf[MaxFrameHeader-1] = byte(n)
	default:
		header = 10
		buf[1] = 127
		for i := range 8 {
			buf[MaxFrameHeader-1-i] = byte(uint64(n) >> (8 * i))
		}
	}
	frame = buf[MaxFrameHeader-header:]
	frame[0] = 0x80 | byte(op) // the only fragment of its message
	return frame, header
}
