package accept

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"testing"
)

var errBroken = errors.New("broken")

// brokenListener fails every Accept with err.
type brokenListener struct{ err error }

func (l brokenListener) Accept() (net.Conn, error) { return nil, l.err }
func (brokenListener) Close() error                { return nil }
func (brokenListener) Addr() net.Addr              { return &net.TCPAddr{} }

// Failed is called with every error of Accept, except that the listener was closed.
func TestFailedAcceptIsTold(t *testing.T) {
	for _, tt := range []struct{ err, want error }{
		{errBroken, errBroken},
		{net.ErrClosed, nil},
	} {
		var told error
		l := Listen(brokenListener{tt.err}, Options{
			TLS:    true,
			Limits: func() Limits { return Limits{Exempt: func(netip.Addr) bool { return true }} },
			Failed: func(err error) { told = err },
		})
		if _, err := l.Accept(); !errors.Is(err, tt.err) || !errors.Is(told, tt.want) {
			t.Errorf("%v: told %v, want %v", tt.err, told, tt.want)
		}
	}
}

func TestMissingLoopIsTold(t *testing.T) {
	told := 0
	opts := Options{NoLoop: func(error) { told++ }}
	Listen(brokenListener{}, opts)
	if want := map[bool]int{true: 1, false: 0}[runtime.GOOS == "linux" && !loopIsOff]; told != want {
		t.Errorf("told %d times, want %d", told, want)
	}
	opts.TLS = true // where no event loop is expected
	told = 0
	Listen(brokenListener{}, opts)
	if told != 0 {
		t.Error("told with TLS")
	}
}
