package engineio

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/holdfast/holdfast/internal/steady"
)

// If a server closes connections that it promised to keep, no request is lost. This holds even if
// the next request is already in flight.
func TestServerThatClosesItsConnections(t *testing.T) {
	// A server that stalls before it closes looks like one that keeps its connections.
	steady.Try(t, keepTrial/4, func() error { return postToAServerThatCloses(t) })
}

func postToAServerThatCloses(t *testing.T) error {
	s := newHTTPServer(t, func(conn net.Conn, i int, _ string) bool {
		say(conn, "Connection: keep-alive\r\n")
		time.Sleep(2 * time.Millisecond) // a request on the network takes no longer
		return false
	})
	var server keeping
	const requests = 50
	for n := range requests {
		k := s.client() // polls and POSTs of one Conn, and of others, learn from each other
		k.server = &server
		if status, _, err := postOnce(k, fmt.Sprint(n)); status != 200 {
			return fmt.Errorf("POST %d: %d, %w", n, status, err)
		}
		if status, _, err := postOnce(k, fmt.Sprint(n)); status != 200 {
			return fmt.Errorf("second POST %d: %d, %w", n, status, err)
		}
	}
	if bodies, connections := s.got(); len(bodies) != 2*requests || connections != 2*requests {
		return fmt.Errorf("%d requests over %d connections", len(bodies), connections)
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	if server.state == keepKeeps {
		return errors.New("the server is taken for one that keeps connections")
	}
	return nil
}

// The connections of a server that keeps them are used again once that is known.
func TestServerThatKeepsItsConnections(t *testing.T) {
	s := newHTTPServer(t, func(conn net.Conn, _ int, _ string) bool { return say(conn, "") })
	var server keeping
	k := s.client()
	k.server = &server
	for deadline := time.Now().Add(testTimeout); ; {
		_, before := s.got()
		for range 2 {
			if _, _, err := postOnce(k, "x"); err != nil {
				t.Fatal(err)
			}
		}
		_, connections := s.got()
		if connections <= before+1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("no connection is used again")
		}
		time.Sleep(10 * time.Millisecond) // until one has been watched
	}
}

// The state follows a server that changes its behaviour.
func TestKeepingChanges(t *testing.T) {
	k := keeping{state: keepKeeps}
	k.closedEarly()
	if keep, taken := k.take(newQuietConn(t)); keep || !taken {
		t.Errorf("after a connection that was closed early: keep %v, taken %v", keep, taken)
	}
	if keep, taken := k.take(nil); keep || taken {
		t.Errorf("while one is watched: keep %v, taken %v", keep, taken)
	}
	k = keeping{state: keepCloses, until: time.Now().Add(time.Minute)}
	if keep, taken := k.take(nil); keep || taken {
		t.Errorf("of a server that closes: keep %v, taken %v", keep, taken)
	}
	k.until = time.Now()
	if keep, taken := k.take(newQuietConn(t)); keep || !taken {
		t.Errorf("a minute later: keep %v, taken %v", keep, taken)
	}
}

// newQuietConn returns a connection whose other end does nothing.
func newQuietConn(t *testing.T) net.Conn {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { theirs.Close() })
	return ours
}
