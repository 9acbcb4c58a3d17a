package proxy

import (
	bigendian "encoding/binary"
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
	// streamMove asks for a session, and then carries the client's WebSocket. It stays open as long as the
	// client, even if that polls.
	streamMove byte = 'm'
	// streamRequest carries one HTTP request and its answer, or a WebSocket.
	streamRequest byte = 'r'
	// streamProbe carries a WebSocket to which a moved client may upgrade.
	streamProbe byte = 'p'
	// streamHandshake asks for the sessions of a client of Engine.IO 3. It then carries the answer to its handshake, or
	// its WebSocket.
	streamHandshake byte = 'h'
	// noteAbandoned says that the client of a move got a fresh session elsewhere.
	noteAbandoned byte = 'a'
	// noteHandover says that the sender hands over. Its content is for how long others should count on its
	// return; 0 means that it serves again.
	noteHandover byte = 'h'
	// noteKeys says which keys of clients the replica has.
	noteKeys byte = 'k'
)

// moveRequest asks an owner for a session. Its fields are what the owner's client needs.
type moveRequest struct {
	SID          string        `json:"sid"`
	Head         string        `json:"head"` // the client's handshake, as it is repeated to the server
	ByWebSocket  bool          `json:"by_websocket,omitempty"`
	Address      string        `json:"address,omitempty"`
	Age          int64         `json:"age"`           // of the handshake, in milliseconds
	At           int64         `json:"at,omitempty"`  // the same by the owner's clock; 0 if it is not known
	ConnectDelay int64         `json:"connect_delay"` // in nanoseconds
	Ping         [2]int64      `json:"ping"`          // interval and timeout, in milliseconds
	MaxPayload   int64         `json:"max_payload"`
	Upgrades     bool          `json:"upgrades,omitempty"`
	HandshakeID  string        `json:"handshake_id,omitempty"`
	PollHeaders  http.Header   `json:"poll_headers,omitempty"`
	Watch        uint64        `json:"watch,omitempty"`
	Namespace    string        `json:"namespace"`
	Connect      []byte        `json:"connect"`
	HeldAcks     []moveMessage `json:"held_acks,omitempty"`

	// Key is the digest of the client's key, if it has one, and Counts are keyedClient.counts.
	Key    []byte                `json:"key,omitempty"`
	Counts map[string]eventCount `json:"counts,omitempty"`
}

// moveMessage is a message from the client.
type moveMessage struct {
	Data   []byte `json:"data"`
	Binary bool   `json:"binary,omitempty"`
}

type moveReply struct {
	Refused reason.Reason `json:"refused,omitempty"` // "" if the client has its session
}

// moveState is the state of the client's transport at the edge.
type moveState struct {
	engineio.Transfer

	Messages []moveMessage `json:"messages,omitempty"` // arrived after the CONNECT
}

// eventCount is how many events of a namespace a client has handled.
type eventCount struct {
	N uint64 `json:"n"`
	// ID is the id of the socket that it handled them with, or "" if the client does not say. A client
	// whose connection was lost before the reply to its CONNECT has counted those of another socket.
	ID string `json:"id,omitempty"`
}

// maxMoveBytes limits what the two sides of a move send each other.
const maxMoveBytes = 64 << 20

// encodeMove returns v in JSON after its length.
func encodeMove(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // these types can always be marshalled
	}
	return append(bigendian.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

var errMove = errors.New("proxy: malformed move")

// readMove reads what encodeMove has written.
func readMove(r io.Reader, v any) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := bigendian.BigEndian.Uint32(size[:])
	if n > maxMoveBytes {
		return fmt.Errorf("%w: %d bytes", errMove, n)
	}
	b, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", errMove, err)
	}
	return nil
}

// encode returns the request as the content of a stream.
func (m *moveRequest) encode() []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // these types can always be marshalled
	}
	return b
}

// movedProbe describes a WebSocket that probes.
type movedProbe struct {
	SID      string `json:"sid"`
	Answered bool   `json:"answered,omitempty"`
	Input    []byte `json:"input,omitempty"`
}

// maxHandover limits what other replicas ask for.
const maxHandover = 2 * time.Minute

// encodeHandover returns the content of a noteHandover.
func encodeHandover(d time.Duration) []byte {
	return bigendian.AppendUvarint(nil, uint64(d.Milliseconds()))
}

// parseHandover reads what encodeHandover has written. It limits d to maxHandover.
func parseHandover(about []byte) (d time.Duration, ok bool) {
	ms, n := bigendian.Uvarint(about)
	return time.Duration(min(ms, uint64(maxHandover.Milliseconds()))) * time.Millisecond, n > 0
}
