package engineio

import "time"

// Reason says why a Socket ended.
type Reason uint8

// Reasons. Their strings are the reference server's where it has a name for them.
const (
	TransportClose Reason = iota + 1 // the stream ended
	TransportError                   // the network failed
	PingTimeout                      // no pong in time
	ClientClose                      // the client sent an Engine.IO CLOSE packet
	GoingAway                        // WebSocket close code 1001: the client left the page
	ParseError                       // the client violated the protocol
	ForcedClose                      // this side closed the connection
	PollError                        // a polling request was canceled, or overlapped another
	CloseFrame                       // the client sent a WebSocket Close frame with another code
	LeaveTimeout                     // the client did not end its side in the time of Leave
	PeerLost                         // another replica relayed the connection, and was lost
)

var reasonNames = [...]string{
	"unknown", "transport close", "transport error", "ping timeout", "client close", "going away", "parse error",
	"forced close", "poll error",
	"transport close", "leave timeout", "peer lost",
}

// String implements fmt.Stringer.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return reasonNames[0]
}

// FillResult is what Handler.Fill returns about the batch it filled.
type FillResult struct {
	// More means that Fill would add more to another batch.
	More bool
	// Confirm asks for a ping directly after the batch, ahead of the interval, so that its pong
	// confirms the batch soon. It has an effect over WebSocket, and over polling with
	// Options.ConfirmByPong. At most one ping is in flight.
	Confirm bool
	// ConfirmLater asks for such a ping only if the client does not confirm by itself; see
	// Handler.Unconfirmed.
	ConfirmLater bool
	// ByPong is Options.ConfirmByPong, from now on.
	ByPong bool
}

// Handler supplies and receives a Socket's messages. Its methods must not wait. Message, Flush and
// Closed may call the Socket; the others are called with its lock held.
type Handler interface {
	// Message receives a message from the client. Calls are in order and never concurrent. data is
	// valid during the call only; Message may change it.
	Message(data []byte, binary bool)
	// Flush follows the Messages of one batch and is never concurrent with them.
	Flush()
	// Fill adds messages to send, as long as e.Len() is below maxBytes.
	Fill(e *Encoder, maxBytes int) FillResult
	// Pending reports whether Fill would add anything or, with Options.ConfirmByPong, ask for a
	// ping.
	Pending() bool
	// Mark identifies everything filled so far. Marks grow.
	Mark() uint64
	// ConfirmPing reports that a ping is sent because Fill asked for it.
	ConfirmPing()
	// Alive reports that the client has answered Ask.
	Alive()
	// Unconfirmed is called every confirmDelay after Fill set ConfirmLater. pending means that
	// something of that kind is still unconfirmed; overdue means that it already was at the
	// previous call.
	Unconfirmed() (pending, overdue bool)
	// Confirm reports that everything up to the mark has arrived at the client.
	Confirm(mark uint64)
	// Incomplete accounts for bytes kept of messages and POST bodies that have arrived in part. It
	// is called with the change in bytes, and from any goroutine. If it returns false for an
	// increase, the connection is closed or the POST refused.
	Incomplete(bytes int) bool
	// TooLarge reports a message or POST body over Options.MaxPayload. The message closes the
	// connection; the POST is refused.
	TooLarge()
	// Upgraded reports that the client moved to WebSocket.
	Upgraded()
	// Closed is called once. If the client ended the connection, it follows the Flush of everything
	// the client sent. If this side or a timeout did, a Message in progress may outlast it, and the
	// Flush of its batch still comes.
	Closed(reason Reason)
	// Panicked reports a panic in one of the Handler's methods, or in the Socket. It is called from
	// the goroutine that panicked. The Socket's locks are free, unless a method that is called with
	// a lock held panicked. Panicked must Abort the Socket from another goroutine.
	Panicked(v any)
}

// Options are a Socket's settings.
type Options struct {
	PingInterval time.Duration
	PingTimeout  time.Duration
	// MaxPayload limits a message or a POST body, in bytes.
	MaxPayload     int64
	UpgradeTimeout time.Duration
	// HandshakeID is the handshake's "t" parameter. If a request repeats it, the application set a
	// fixed value, which does not identify retries.
	HandshakeID string
	// Upgrades allows the upgrade to WebSocket.
	Upgrades bool
	// ConfirmByPong makes pongs the only confirmation. A poll, or the change to WebSocket, uses
	// another connection than the POSTs and may overtake a message that the client sent before. A
	// client that waits for its POST or its upgrade before it closes still polls, and ignores what
	// it gets. It answers no pings.
	ConfirmByPong bool
	// Protocol is the version that the client speaks.
	Protocol Protocol
	// Base64 says that a client of version 3 takes binary messages as text only ("b64"). Over
	// polling, characters outside ASCII must then stand in JSON strings.
	Base64 bool
}

// smallBytes is the size up to which a message is not accounted for as incomplete.
const smallBytes = 16 << 10

// reserve calls an Incomplete function if there is one and bytes is not 0. A negative number
// releases.
func reserve(incomplete func(bytes int) bool, bytes int) bool {
	return bytes == 0 || incomplete == nil || incomplete(bytes)
}
