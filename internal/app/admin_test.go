package app

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/internal/siotest/outputtest"
)

var errBroken = errors.New("broken")

type brokenListener struct{}

func (brokenListener) Accept() (net.Conn, error) { return nil, errBroken }
func (brokenListener) Close() error              { return nil }
func (brokenListener) Addr() net.Addr            { return &net.TCPAddr{Port: 9090} }

// An admin listener that ends by itself is in the log: nothing else shows it.
func TestFailedAdminListenerIsLogged(t *testing.T) {
	var log outputtest.Buffer
	serveHTTP(&http.Server{}, brokenListener{}, slog.New(slog.NewTextHandler(&log, nil)))
	if got := log.String(); !strings.Contains(got, "level=ERROR") || !strings.Contains(got, "broken") || !strings.Contains(got, ":9090") {
		t.Errorf("log: %s", got)
	}
	closed := &http.Server{}
	_ = closed.Close() // it has no listener yet
	var silent outputtest.Buffer
	serveHTTP(closed, brokenListener{}, slog.New(slog.NewTextHandler(&silent, nil)))
	if got := silent.String(); got != "" {
		t.Errorf("log after stop: %s", got)
	}
}
