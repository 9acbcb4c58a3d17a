package metrics

import "github.com/prometheus/client_golang/prometheus"

// Replicas are the metrics about other replicas. All are 0 without a cluster.
type Replicas struct {
	Relays             Relays               // holdfast_relays
	RelayAskDuration   prometheus.Histogram // holdfast_relay_ask_duration_seconds
	PeerKeys           prometheus.Gauge     // holdfast_peer_keys
	KeyConflicts       prometheus.Counter   // holdfast_key_conflicts_total
	ForwardedRequests  prometheus.Counter   // holdfast_forwarded_requests_total
	PeerRoundTrip      prometheus.Histogram // holdfast_peer_round_trip_seconds
	PeerLookupFailures prometheus.Counter   // holdfast_peer_lookup_failures_total

	peers        *prometheus.GaugeVec   // holdfast_peers
	relayResumes *prometheus.CounterVec // holdfast_relay_resumes_total
	peerLosses   *prometheus.CounterVec // holdfast_peer_losses_total
}

// Relays counts clients between two replicas by the role of this one: Edge relays the client's
// bytes, Owner has its session.
type Relays struct{ Edge, Owner prometheus.Gauge }

// PeerStates are the values of the label state.
func PeerStates() []string { return []string{"unknown", "dialling", "up", "suspect", "gone"} }

// relayResults are the values of the label result.
func relayResults() []string {
	return []string{"resumed", "refused", "owner_gone", "owner_unreachable", "owner_incompatible", "owner_conflict"}
}

func newReplicas(f factory) Replicas {
	relays := f.gauges("relays", "Clients currently relayed between two replicas, by the role of this one: edge (relays) or owner (has the session).", "role")
	r := Replicas{
		Relays:           Relays{relays.WithLabelValues("edge"), relays.WithLabelValues("owner")},
		RelayAskDuration: f.histogram("relay_ask_duration_seconds", "Time from asking another replica for a session until it answered or the attempt was abandoned.", .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5),

		PeerKeys:     f.gauge("peer_keys", "Client keys (recovery.keyed) that other replicas have."),
		KeyConflicts: f.counter("key_conflicts_total", "Keys whose sessions here were closed, because another replica claimed the key at the same time or could not reach this one."),

		ForwardedRequests:  f.counter("forwarded_requests_total", "Requests forwarded to another replica because of their sid."),
		PeerRoundTrip:      f.histogram("peer_round_trip_seconds", "Time from a ping to another replica until its pong.", .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5),
		PeerLookupFailures: f.counter("peer_lookup_failures_total", "Failed lookups of the other replicas in Redis or DNS."),

		peers:        f.gauges("peers", "Other replicas, by the state of the connection to them.", "state"),
		relayResumes: f.counters("relay_resumes_total", "Clients that presented a pid or a key of another replica, by result.", "result"),
		peerLosses:   f.counters("peer_losses_total", "Connections to other replicas that ended, by cause: closed, silent or goodbye (the other one stopped).", "why"),
	}
	for _, state := range PeerStates() {
		r.peers.WithLabelValues(state)
	}
	for _, result := range relayResults() {
		r.relayResumes.WithLabelValues(result)
	}
	for _, why := range []string{"closed", "silent", "goodbye"} {
		r.peerLosses.WithLabelValues(why)
	}
	return r
}

// SetPeers sets how many other replicas are in each state.
func (r *Replicas) SetPeers(counts map[string]int) {
	for _, state := range PeerStates() {
		r.peers.WithLabelValues(state).Set(float64(counts[state]))
	}
}

// RelayResumed counts a client that presented a pid or a key of another replica.
func (r *Replicas) RelayResumed(result string) { r.relayResumes.WithLabelValues(result).Inc() }

// PeerLost counts the end of a connection to another replica.
func (r *Replicas) PeerLost(why string) { r.peerLosses.WithLabelValues(why).Inc() }
