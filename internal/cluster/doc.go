// Package cluster connects the replicas of holdfast: it finds them, keeps a connection to each, and
// carries streams between them. It knows no client and no session; package proxy decides what the
// streams are for.
//
// # Parts
//
//   - node.go has the Node, this replica's place in the cluster. Open opens a stream to another
//     replica.
//   - peer.go has what is known of one other replica, with its states; inbound.go serves those that
//     dial.
//   - book.go and redis.go find other replicas: by addresses and names, or in Redis. redisurl.go
//     reads its URLs, and rediserror.go explains its errors.
//   - secret.go derives the keys from the cluster's secret. id.go makes ids.
//   - conn.go is one connection, wire.go its frames, and frames.go reads them. tlsstream.go puts
//     TLS on top of package netpoll.
//   - stream.go has a connection's streams. netconn.go makes a stream a net.Conn, and pushed.go a
//     netpoll.Stream.
//   - check.go asks other replicas once, for -check.
//
// # Connections
//
// Each replica dials each other one. Only the side that dialled opens streams, so two replicas that
// need each other have two connections. There is no directory of sessions: a session's pid names
// its replica.
//
// # Streams
//
// A Stream begins as a net.Conn, for a goroutine that reads and writes. netpoll.New then makes a
// netpoll.Stream of it, which has no goroutine: its handler is called by the connection's reader.
// Each direction has a window of 256 KiB, so a stream that is not read does not block others. While
// much data waits for the network, streams hold back theirs, so that their writers notice. Later
// they take turns.
//
// # Locks
//
// In the order in which they may be held together: Node.mu, Stream.mu, conn.mu, socket.mu, the
// locks of netpoll. No lock is held while a handler is called.
package cluster
