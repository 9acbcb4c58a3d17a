package status

import (
	"strings"
	"time"

	"github.com/holdfast/holdfast/internal/reason"
)

// Version is the Report's version. It changes when a field is renamed or removed or changes its
// meaning, but not when one is added.
const Version = 1

// States of the process.
const (
	Serving  = "serving"
	Draining = "draining" // shutting down: no new clients
)

// Health of the upstream.
const (
	HealthOK      = "ok"      // it answered the last handshake
	HealthFailing = "failing" // it did not answer the last handshake
	HealthUnknown = "unknown" // there was no handshake yet
)

// Report is holdfast's state at a point in time. /api/status returns it as JSON. Lists are never
// null.
type Report struct {
	Version        int        `json:"version"`
	Time           time.Time  `json:"time"`
	Holdfast       Holdfast   `json:"holdfast"`
	Sessions       Sessions   `json:"sessions"`
	Clients        Transports `json:"clients"`
	Links          Transports `json:"links"` // connections to the upstream
	Buffer         Buffer     `json:"buffer"`
	Upstream       Upstream   `json:"upstream"`
	Handover       Handover   `json:"handover"`
	Cluster        Cluster    `json:"cluster"`
	Recoveries     Recoveries `json:"recoveries"`
	History        History    `json:"history"`
	LatestRecovery []Recovery `json:"latest_recoveries"` // newest first
	LatestFailure  []Failure  `json:"latest_failures"`   // newest first
	Poison         Poisons    `json:"poison"`
	Parked         []Parked   `json:"parked"` // the longest parked, oldest first
}

// Holdfast is the process itself.
type Holdfast struct {
	Version       string    `json:"version"`
	State         string    `json:"state"` // Serving or Draining
	Started       time.Time `json:"started"`
	UptimeSeconds float64   `json:"uptime_seconds"`
	PID           int       `json:"pid"`
	// PIDNamespace is the kernel's name for what PID is valid in. It is empty on other systems than
	// Linux.
	PIDNamespace string `json:"pid_namespace"`
}

// Handover is the last attempt to hand the sessions to another process.
type Handover struct {
	Count           int64      `json:"count"` // of attempts, also by the processes before this one
	Time            *time.Time `json:"time"`  // of the last one; null if there was none
	Result          string     `json:"result"`
	Reason          string     `json:"reason"` // why it was not ok
	DurationSeconds float64    `json:"duration_seconds"`
	// Parts of the duration: until all clients were closed, until nothing changed any more, until
	// the next program had everything, and until it served.
	LeaveSeconds   float64 `json:"leave_seconds"`
	FreezeSeconds  float64 `json:"freeze_seconds"`
	PassSeconds    float64 `json:"pass_seconds"`
	RestoreSeconds float64 `json:"restore_seconds"`
	Sessions       int     `json:"sessions"`        // that were handed over
	LostSessions   int     `json:"lost_sessions"`   // that could not be
	CutConnections int     `json:"cut_connections"` // without a session
	CutClients     int     `json:"cut_clients"`     // that did not end their connection in time
}

// Sessions counts sessions by state.
type Sessions struct {
	Live      int `json:"live"`
	Parked    int `json:"parked"`
	MaxParked int `json:"max_parked"` // recovery.max_parked_sessions
}

// Transports counts connections by their Engine.IO transport.
type Transports struct {
	Polling   int `json:"polling"`
	WebSocket int `json:"websocket"`
}

// Buffer is the memory used by the logs of all sessions.
type Buffer struct {
	Packets     int64 `json:"packets"`
	Bytes       int64 `json:"bytes"`
	BudgetBytes int64 `json:"budget_bytes"`
}

// Upstream says how the server answers handshakes.
type Upstream struct {
	URL         string     `json:"url"`    // several are separated by commas
	Health      string     `json:"health"` // HealthOK, HealthFailing or HealthUnknown
	LastAnswer  *time.Time `json:"last_answer"`
	LastFailure *time.Time `json:"last_failure"`
	LastError   string     `json:"last_error"` // of LastFailure
	Handshakes  Handshakes `json:"handshakes"`
	Servers     []Server   `json:"servers"`
}

// Server is one of the servers behind holdfast.
type Server struct {
	URL          string  `json:"url"`
	State        string  `json:"state"`         // up, down, unhealthy or leaving
	StateSeconds float64 `json:"state_seconds"` // how long it has been in that state
	Links        int     `json:"links"`
	Error        string  `json:"error"` // why it is down or unhealthy
}

// Cluster describes the other replicas.
type Cluster struct {
	ID    string `json:"id"` // of this replica; empty without a cluster
	Peers []Peer `json:"peers"`
	// RelaysEdge are clients whose bytes this replica relays, and RelaysOwner those with a session
	// here.
	RelaysEdge  int `json:"relays_edge"`
	RelaysOwner int `json:"relays_owner"`
}

// Peer is another replica.
type Peer struct {
	ID               string  `json:"id"` // empty if it never answered
	Address          string  `json:"address"`
	State            string  `json:"state"` // unknown, dialling, up, suspect or gone
	StateSeconds     float64 `json:"state_seconds"`
	RoundTripSeconds float64 `json:"round_trip_seconds"` // of the latest ping
	Streams          int     `json:"streams"`            // to it: relays, and requests under way
	Error            string  `json:"error"`              // why it cannot be connected
}

// Handshakes counts Engine.IO handshakes with the upstream since the start, by result.
type Handshakes struct {
	OK       int64 `json:"ok"`
	Rejected int64 `json:"rejected"` // answered with an error status
	Error    int64 `json:"error"`
	Timeout  int64 `json:"timeout"`
}

// Recoveries counts reconnections that presented a pid, since the start.
type Recoveries struct {
	Recovered int64         `json:"recovered"`
	Failed    int64         `json:"failed"`
	Reasons   []ReasonCount `json:"reasons"` // every possible reason
}

// ReasonCount says how often a reason occurred.
type ReasonCount struct {
	Result  string        `json:"result"` // "recovered" or "failed"
	Reason  reason.Reason `json:"reason"`
	Count   int64         `json:"count"`
	Meaning string        `json:"meaning"`
}

// History counts recoveries over time. Both lists have the same length, oldest first. The last
// element is the current, incomplete step.
type History struct {
	StepSeconds int       `json:"step_seconds"`
	Start       time.Time `json:"start"` // of the first element
	Recovered   []int     `json:"recovered"`
	Failed      []int     `json:"failed"`
}

// Recovery is a client that resumed its session.
type Recovery struct {
	Time        time.Time     `json:"time"`
	Client      uint64        `json:"client"` // the number of its handshake, as in the log
	Namespace   string        `json:"namespace"`
	Reason      reason.Reason `json:"reason"` // reason.Resumed or Takeover
	Missed      int           `json:"missed"` // packets sent while it was away
	AwaySeconds float64       `json:"away_seconds"`
}

// Failure is a client that presented a pid and did not get its session.
type Failure struct {
	Time      time.Time     `json:"time"`
	Client    uint64        `json:"client"`
	Namespace string        `json:"namespace"`
	Reason    reason.Reason `json:"reason"` // one of reason.Failed
}

// Poisons are packets that were left out because their client cannot decode them, since the start.
type Poisons struct {
	Packets int64    `json:"packets"`
	Latest  []Poison `json:"latest"` // newest first
}

// Poison is a packet that was left out.
type Poison struct {
	Time      time.Time `json:"time"`
	Namespace string    `json:"namespace"`
	Event     string    `json:"event"` // its name, or what else the packet is, in parentheses
	Bytes     int       `json:"bytes"` // with its attachments
}

// Parked is a session without a client.
type Parked struct {
	Namespace        string        `json:"namespace"`
	Reason           reason.Reason `json:"reason"` // one of reason.Parked
	AgeSeconds       float64       `json:"age_seconds"`
	ExpiresInSeconds float64       `json:"expires_in_seconds"`
	Packets          int           `json:"packets"`
	Bytes            int           `json:"bytes"`
}

// maxNamespace and maxEvent are how many bytes of a namespace's and an event's name a Report
// contains.
const maxNamespace, maxEvent = 100, 100

// ShortNamespace shortens a namespace's name, which a client may have chosen, for a Report.
func ShortNamespace(name string) string { return shorten(name, maxNamespace) }

// ShortEvent shortens an event's name for a Report.
func ShortEvent(name string) string { return strings.ToValidUTF8(shorten(name, maxEvent), "\uFFFD") }

// ShortError shortens an error's text for a Report.
func ShortError(text string) string { return shorten(text, maxError) }

// shorten truncates s to n bytes. If it does, it also removes invalid UTF-8.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const mark = "…"
	return strings.ToValidUTF8(s[:n-len(mark)], "") + mark
}
