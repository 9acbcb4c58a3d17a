// Package proxy is holdfast's data plane: an http.Handler that joins clients, sessions and links.
//
// A client is one Engine.IO connection from outside. A link is one Engine.IO connection to the
// upstream server. A session is one namespace of one link, and package session keeps it while its
// client is away. Everything that is not Engine.IO traffic, or is a version that holdfast does not
// speak, passes through unchanged.
//
// # Files
//
// To learn the package, read server.go, receiver.go, resume.go, link.go and sender.go, in this
// order.
//
// Requests:
//
//   - server.go has the Server: it routes requests, and shuts down. status.go reports its state.
//     listener.go connects it to internal/accept, which answers simple WebSocket handshakes without
//     net/http. handover.go and handover_restore.go move links and sessions to another process;
//     handover_peers.go has other replicas wait meanwhile.
//   - deps.go has what the Server, clients and links share. settings.go has the configuration in
//     force, which Reload replaces. conns.go has the clients and links that are open.
//   - handshake.go repeats a client's handshake to the upstream and opens the client. lazy.go
//     answers handshakes from a cache instead. protocol.go finds out which version of Engine.IO the
//     server speaks. clientv3.go serves clients of Engine.IO 3.
//   - request.go serves the later requests of a client, and answer.go writes what a Socket answers.
//   - passthrough.go relays what holdfast does not handle.
//
// Clients:
//
//   - client.go has the client: how it opens, and what it is attached to. clientconn.go has what
//     its parts share, and clientend.go how it ends.
//   - receiver.go handles the packets that a client sends. assembler.go collects binary packets,
//     and heldacks.go keeps acknowledgements that arrive before their CONNECT.
//   - resume.go handles a CONNECT: the client resumes a session, or connects a fresh one.
//   - disconnect.go parks a session when its client sends a DISCONNECT, if that is configured.
//   - primary.go has the state of the primary link, on which fresh namespaces are connected.
//     redial.go sends packets there, and dials another one when the client needs it.
//     savedrequest.go keeps the handshake for that.
//   - pause.go counts the reasons why a client is not read.
//   - sender.go has the queue of what a client is sent. fill.go writes packets from the sessions'
//     logs, and confirm.go tells the logs what has arrived. fresh.go, lag.go, trial.go, proof.go
//     and sign.go handle the cases in which that is in doubt.
//
// Links:
//
//   - link.go passes the server's packets to the sessions' logs, and wakes clients. It pauses
//     clients while too much waits for the server.
//   - linkconnect.go connects namespaces and opens their sessions. linkspaces.go has the state of
//     each namespace.
//   - linksessions.go is what a link does for package session.
//   - linkend.go closes unused links, and ends the sessions of a link that ended.
//   - translate.go translates between the protocols of a server that speaks Engine.IO 3 and its
//     clients.
//   - notify.go tells the server that a client is away or back, if that is configured.
//
// Other replicas:
//
//   - replicas.go has what the Server knows about them, and peers.go serves the streams that they
//     open. ownerpauses.go remembers which do not answer.
//   - move.go moves a client to the replica with its session, and moved.go takes one over.
//     postpone.go makes sure that nothing ties the client to this replica before. abandon.go tells
//     owners that could not be asked.
//   - forward.go forwards requests with another replica's sid, and forwardkeyed.go those of a
//     client of Engine.IO 3 whose key another replica has.
//   - keymove.go moves a client with a key to the replica that has it.
//
// internal/peerwire has what replicas send each other, and internal/relay relays WebSockets.
//
// Clients with a key, and repeated events:
//
//   - keyed.go recovers clients that send no pid and offset, by a key in their URL. keyedquery.go
//     reads the key, keyask.go and asked.go ask its other client for a sign of life, and
//     keyedack.go keeps the acknowledgement ids of two connections apart. internal/keys has the
//     sessions of each.
//   - clientv3.go does the same for clients of Engine.IO 3.
//   - joins.go drops events that a resumed session's client repeats.
//
// Both:
//
//   - events.go finds events that may be dropped.
//   - incomplete.go bounds the memory of messages that have arrived only in part.
//   - observe.go reports what happens to metrics, log and status page.
//   - panic.go confines a panic to one connection.
//   - event.go and namespaces.go are small types.
//
// # References
//
// References run from the Server to handshaker and passthrough, then to the client, then to the
// link, and from there into package session. All of them use deps.
//
// Within a client, references run from the receiver to the client, from both to the sender, and
// from all to clientConn. A link is only a source to the sender, and a client only an aborter to
// trials. What only one feature does is a method of that feature's type: keyedReceiver, mover,
// movedClient, handshakerV3, keyedReplicas, peerServer. No type has methods in more than four
// files.
//
// A few pairs of files refer to each other, for one of these reasons:
//
//   - They are one type, divided by subject: client and clientend; receiver, resume, redial and
//     disconnect; link, linkconnect, linkend and translate; sender, trial, proof and sign.
//   - A link refers back to clients, because what it reads is for them. It tells a client about an
//     opened session (connected), packets (deliver, relay) and its own end (onPrimaryLost, end). It
//     also pauses clients and wakes their Sockets.
//   - A client has its parts as fields, and each part ends the client or finds another one when it
//     must: the receiver, the sender and disconnects. So has deps the replicas, which use deps, and
//     replicas have lostOwners (abandon), which look at a client that has gone. conns holds links, to
//     find and count them.
//   - The receiver calls an optional feature at one place, where a CONNECT or a batch ends up
//     there: clientv3, keyed, keymove, move and postpone.
//
// Package session calls links, clients and the observer only through its own interfaces.
//
// # Locks
//
// Where several are held together, they are taken in this order:
//
//  1. the input lock of an engineio.Socket or engineio.Conn, which guards receiver and the fields of
//     a link for one batch
//  2. pauses.mu
//  3. the state lock of an engineio.Socket
//  4. client.mu
//  5. sender.mu
//  6. disconnects.mu, primary.mu and keys.Ring.mu
//  7. link.mu
//  8. the locks of package session: first the Registry's, then a Session's
//  9. conns.mu
//  10. the lock of a relay, and the locks of package cluster
//  11. link.pauseMu, joins.mu, askedClients.mu, replicas.mu, and the locks of engineio.Conn and
//     below
//
// No lock is held across a blocking call. docs/design.md says what each lock guards.
package proxy
