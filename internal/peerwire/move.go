package peerwire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/reason"
)

// Kinds of streams and notes between replicas.
const (
	// StreamMove asks for a session, and then carries the client's WebSocket. It stays open as long
	// as the client, even if that polls.
	StreamMove byte = 'm'
	// StreamRequest carries one HTTP request and its answer, or a WebSocket.
	StreamRequest byte = 'r'
	// StreamProbe carries a WebSocket to which a moved client may upgrade.
	StreamProbe byte = 'p'
	// StreamHandshake asks for the sessions of a client of Engine.IO 3. It then carries the answer
	// to its handshake, or its WebSocket.
	StreamHandshake byte = 'h'
	// StreamEnded asks why a client's key has no session any more.
	StreamEnded byte = 'e'
	// NoteAbandoned says that the client of a move got a fresh session elsewhere.
	NoteAbandoned byte = 'a'
	// NoteHandover says that the sender hands over. Its content is for how long others should count
	// on its return; 0 means that it serves again.
	NoteHandover byte = 'h'
	// NoteDoubt says that a client may not know the fresh session that it got in place of another
	// one. Its content is a Doubt.
	NoteDoubt byte = 'd'
	// NoteReturned says that such a client has asked for the other one again since. Its content is
	// the pid.
	NoteReturned byte = 'b'
	// NoteKeys says which keys of clients the replica has.
	NoteKeys byte = 'k'
)

// MoveRequest asks an owner for a session. Its fields are what the owner's client needs.
type MoveRequest struct {
	SID          string      `json:"sid"`
	Head         string      `json:"head"` // the client's handshake, as it is repeated to the server
	ByWebSocket  bool        `json:"by_websocket,omitempty"`
	Address      string      `json:"address,omitempty"`
	Age          int64       `json:"age"`             // of the handshake, in milliseconds
	At           int64       `json:"at,omitempty"`    // the same by the owner's clock; 0 if it is not known
	Again        bool        `json:"again,omitempty"` // the owner was asked before, with an earlier At
	ConnectDelay int64       `json:"connect_delay"`   // in nanoseconds
	Ping         [2]int64    `json:"ping"`            // interval and timeout, in milliseconds
	MaxPayload   int64       `json:"max_payload"`
	Upgrades     bool        `json:"upgrades,omitempty"`
	HandshakeID  string      `json:"handshake_id,omitempty"`
	PollHeaders  http.Header `json:"poll_headers,omitempty"`
	Watch        uint64      `json:"watch,omitempty"`
	Namespace    string      `json:"namespace"`
	Connect      []byte      `json:"connect"`
	HeldAcks     []Message   `json:"held_acks,omitempty"`

	// Key is the digest of the client's key, if it has one, and Counts are keyedClient.counts.
	Key    []byte                `json:"key,omitempty"`
	Counts map[string]EventCount `json:"counts,omitempty"`

	// Why is the reason in a NoteAbandoned: OwnerConflict, or OwnerUnreachable, also if there is
	// none.
	Why reason.Reason `json:"why,omitempty"`
}

// Doubt says that a client which asked for the session with this pid may not know the one that it
// got instead.
type Doubt struct {
	PID string `json:"pid"`
	Age int64  `json:"age"`          // of the client's handshake, in milliseconds
	At  int64  `json:"at,omitempty"` // the same by the receiver's clock; 0 if it is not known
}

// Encode returns d as JSON.
func (d *Doubt) Encode() []byte {
	b, err := json.Marshal(d)
	if err != nil {
		panic(err) // these types can always be marshalled
	}
	return b
}

// Message is a message from the client.
type Message struct {
	Data   []byte `json:"data"`
	Binary bool   `json:"binary,omitempty"`
}

type MoveReply struct {
	Refused reason.Reason `json:"refused,omitempty"` // "" if the client has its session
}

// MoveState is the state of the client's transport at the edge.
type MoveState struct {
	engineio.Transfer

	Messages []Message `json:"messages,omitempty"` // arrived after the CONNECT
}

// EventCount is how many events of a namespace a client has handled.
type EventCount struct {
	N uint64 `json:"n"`
	// ID is the id of the socket that it handled them with, or "" if the client does not say. A
	// client whose connection was lost before the reply to its CONNECT has counted those of another
	// socket.
	ID string `json:"id,omitempty"`
}

// maxBytes limits what the two sides of a move send each other.
const maxBytes = 64 << 20

// Encode returns v in JSON after its length.
func Encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // these types can always be marshalled
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

var errMalformed = errors.New("peerwire: malformed move")

// Read reads what Encode has written.
func Read(r io.Reader, v any) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxBytes {
		return fmt.Errorf("%w: %d bytes", errMalformed, n)
	}
	b, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", errMalformed, err)
	}
	return nil
}

// Encode returns the request as the content of a stream.
func (m *MoveRequest) Encode() []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // these types can always be marshalled
	}
	return b
}

// Probe describes a WebSocket that probes.
type Probe struct {
	SID      string `json:"sid"`
	Answered bool   `json:"answered,omitempty"`
	Input    []byte `json:"input,omitempty"`
}

// MaxHandover limits what other replicas ask for.
const MaxHandover = 2 * time.Minute

// EncodeHandover returns the content of a NoteHandover.
func EncodeHandover(d time.Duration) []byte {
	return binary.AppendUvarint(nil, uint64(d.Milliseconds()))
}

// ParseHandover reads what EncodeHandover has written. It limits d to MaxHandover.
func ParseHandover(about []byte) (d time.Duration, ok bool) {
	ms, n := binary.Uvarint(about)
	return time.Duration(min(ms, uint64(MaxHandover.Milliseconds()))) * time.Millisecond, n > 0
}
