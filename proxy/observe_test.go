package proxy

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/internal/admin/status"
	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/reason"
	"github.com/holdfast/holdfast/session"
)

// recoveries returns a value of holdfast_recoveries_total.
func (r *rig) recoveries(result, why string) float64 {
	r.t.Helper()
	families, err := r.series.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "holdfast_recoveries_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if labels := m.GetLabel(); labels[0].GetValue() == why && labels[1].GetValue() == result {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func TestEveryEndOfATransportIsAParkingReason(t *testing.T) {
	for r := engineio.Reason(1); r.String() != "unknown"; r++ {
		if word := parkingReasons[r]; !slices.Contains(reason.Parked(), word) {
			t.Errorf("%v: %q is no parking reason", r, word)
		}
	}
}

// A reason is the same word in metrics, the log and the status report.
func TestReasonsAreTheSameEverywhere(t *testing.T) {
	r := newRig(t, nil)
	c := &clientConn{deps: r.proxy.deps, seq: 7}
	for _, why := range reason.Failed() {
		c.notRecovered("/nsp", why)
		if got := r.recoveries("failed", string(why)); got != 1 {
			t.Errorf("%s: counted %v times in the metrics", why, got)
		}
		if want := "msg=\"not recovered\" client=7 namespace=/nsp reason=" + string(why); !strings.Contains(strings.ReplaceAll(r.logs.String(), "\n", " "), want+" ") {
			t.Errorf("no %q in the log", want)
		}
		f := r.proxy.Status().LatestFailure[0]
		if f.Reason != why || f.Client != 7 || f.Namespace != "/nsp" {
			t.Errorf("status report: %+v, want %s", f, why)
		}
	}
	for _, why := range reason.Recovered() {
		r.proxy.recovered(c.seq, "/nsp", why, session.Resumption{Missed: 3})
		if got := r.recoveries("recovered", string(why)); got != 1 {
			t.Errorf("%s: counted %v times in the metrics", why, got)
		}
		if want := "msg=recovered client=7 namespace=/nsp reason=" + string(why) + " missed=3"; !strings.Contains(r.logs.String(), want) {
			t.Errorf("no %q in the log", want)
		}
		if f := r.proxy.Status().LatestRecovery[0]; f.Reason != why || f.Missed != 3 {
			t.Errorf("status report: %+v, want %s", f, why)
		}
	}
	for _, rc := range r.proxy.Status().Recoveries.Reasons {
		if rc.Count != 1 {
			t.Errorf("status report: %+v, want 1", rc)
		}
	}
}

func TestStatus(t *testing.T) {
	r := newRig(t, func(c *config.Config) { c.Recovery.MaxParkedSessions = 17 })
	r.client() // stays
	parked := r.client()
	s := r.socket(1)
	parked.Cut()
	r.await("one to be parked", func() bool { return r.proxy.Status().Sessions.Parked == 1 })
	s.Emit("n", 1)
	r.await("a packet to be kept", func() bool { return r.proxy.Status().Parked[0].Packets == 1 })
	got := r.proxy.Status()
	if got.Sessions != (status.Sessions{Live: 1, Parked: 1, MaxParked: 17}) {
		t.Errorf("sessions: %+v", got.Sessions)
	}
	if got.Clients != (status.Transports{WebSocket: 1}) || got.Links != (status.Transports{WebSocket: 2}) {
		t.Errorf("clients %+v, links %+v", got.Clients, got.Links)
	}
	if got.Buffer.Bytes <= 0 || got.Buffer.Packets < 1 || got.Buffer.BudgetBytes <= got.Buffer.Bytes {
		t.Errorf("buffer: %+v", got.Buffer)
	}
	if u := got.Upstream; u.Health != status.HealthOK || u.Handshakes.OK != 2 || !strings.HasPrefix(u.URL, "http://127.0.0.1:") {
		t.Errorf("upstream: %+v", u)
	}
	p := got.Parked[0]
	if p.Namespace != "/" || !slices.Contains(reason.Parked(), p.Reason) || p.Bytes <= 0 || p.ExpiresInSeconds <= 0 || p.AgeSeconds > 60 {
		t.Errorf("parked: %+v", p)
	}
}

func TestCancelledDialIsNoUpstreamFailure(t *testing.T) {
	r := newRig(t, nil)
	r.proxy.dialled(&url.Error{Op: "Get", URL: "http://upstream/", Err: context.Canceled}, 0)
	if u := r.proxy.Status().Upstream; u.Health != status.HealthUnknown {
		t.Errorf("upstream: %+v", u)
	}
	r.proxy.dialled(errors.New("connection refused"), 0)
	if u := r.proxy.Status().Upstream; u.Health != status.HealthFailing || u.LastError != "connection refused" {
		t.Errorf("upstream: %+v", u)
	}
}

func TestShutdownEndsSessionsAsDraining(t *testing.T) {
	r := newRig(t, nil)
	r.client()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	r.proxy.Shutdown(over)
	if got := r.proxy.Status().Holdfast.State; got != status.Draining {
		t.Errorf("state: %s", got)
	}
	if log := r.logs.String(); !strings.Contains(log, `msg="session closed" namespace=/ reason=draining`) {
		t.Errorf("no session closed as draining:\n%s", log)
	}
}
