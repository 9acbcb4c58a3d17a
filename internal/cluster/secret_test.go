package cluster

import (
	"context"
	"errors"
	"net"
	"testing"
)

func TestBadSecrets(t *testing.T) {
	for _, secrets := range [][]string{nil, {"short"}, {secretA, "short"}} {
		if _, err := NewKeys(secrets); err == nil {
			t.Errorf("%q is accepted", secrets)
		}
	}
}

// Only replicas that share a secret connect, whichever dials.
func TestKeys(t *testing.T) {
	a, b := keys(t, secretA), keys(t, secretB)
	both := keys(t, secretB, secretA)
	for _, tt := range []struct {
		name           string
		dialer, server *Keys
		ok             bool
	}{
		{"same secret", a, keys(t, secretA), true},
		{"another secret", a, b, false},
		{"the server accepts an old one, but presents another", a, both, false},
		{"both accept both", keys(t, secretA, secretB), both, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			near, far := net.Pipe()
			served := make(chan error, 1)
			go func() {
				_, err := connect(context.Background(), far, tt.server, hello{ID: idB}, false)
				served <- err
			}()
			c, err := connect(context.Background(), near, tt.dialer, hello{ID: idA}, true)
			if err == nil && c.peer.ID != idB {
				t.Errorf("connected to %q", c.peer.ID)
			}
			serverErr := <-served
			if ok := err == nil && serverErr == nil; ok != tt.ok {
				t.Errorf("dialler: %v, server: %v, want success %v", err, serverErr, tt.ok)
			}
			if !tt.ok && !errors.Is(errors.Join(err, serverErr), errStranger) {
				t.Errorf("neither says why: %v, %v", err, serverErr)
			}
			near.Close()
			far.Close()
		})
	}
}

func TestIDs(t *testing.T) {
	if id := NewID(); !ValidID(id) || NewID() == id {
		t.Errorf("%q", id)
	}
	for _, s := range []string{"", "AAAAAAA", "AAAAAAAAA", "AAAA AAA", "AAAAAAA\xff"} {
		if ValidID(s) {
			t.Errorf("%q is valid", s)
		}
	}
}
