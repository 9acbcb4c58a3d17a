package engineio

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// transitions returns "from -> to" for each pair of states that move accepts, without those that
// stay. It checks that a refused move changes nothing.
func transitions[S interface {
	~uint8
	fmt.Stringer
}](t *testing.T, last S, move func(from, to S) (S, bool)) []string {
	t.Helper()
	var got []string
	for from := S(0); from <= last; from++ {
		for to := S(0); to <= last; to++ {
			state, ok := move(from, to)
			switch {
			case ok && state != to, !ok && state != from:
				t.Errorf("a move from %v to %v, %v, ended in %v", from, to, ok, state)
			case ok && from != to:
				got = append(got, from.String()+" -> "+to.String())
			}
		}
	}
	if name := (last + 1).String(); !strings.Contains(name, "(") {
		t.Errorf("the value after %v has the name %q", last, name)
	}
	return got
}

func TestStates(t *testing.T) {
	for _, tt := range []struct {
		name string
		got  []string
		want []string
	}{
		{"life", transitions(t, stateReported, func(from, to lifeState) (lifeState, bool) {
			var l life
			l.v.Store(uint32(from))
			ok := l.moveLocked(to)
			return l.get(), ok
		}), []string{"open -> closing", "open -> closed", "closing -> closed", "closed -> reported"}},
		{"output", transitions(t, outputLeft, func(from, to outputState) (outputState, bool) {
			ok := from.moveLocked(to)
			return from, ok
		}), []string{
			"writable -> blocked", "writable -> extraWaits", "writable -> left", "blocked -> writable", "blocked -> left",
			"extraWaits -> writable", "extraWaits -> left",
		}},
		{"close style", transitions(t, closeBroken, func(from, to closeStyle) (closeStyle, bool) {
			ok := from.moveLocked(to)
			return from, ok
		}), []string{"orderly -> tooBig", "orderly -> broken", "tooBig -> broken"}},
		{"ask", transitions(t, askAnswered, func(from, to askState) (askState, bool) {
			ok := from.moveLocked(to)
			return from, ok
		}), []string{
			"none -> waits", "none -> asked", "waits -> asked", "asked -> waits", "asked -> answered", "answered -> waits",
			"answered -> asked",
		}},
		{"ping", transitions(t, pingExtraQueued, func(from, to pingState) (pingState, bool) {
			p := pinger{state: from}
			ok := p.moveLocked(to)
			return p.state, ok
		}), []string{
			"idle -> queued", "idle -> sent", "queued -> sent", "sent -> idle", "sent -> extraQueued",
			"extraQueued -> idle", "extraQueued -> sent",
		}},
		{"answer", transitions(t, answerPonged, func(from, to answerState) (answerState, bool) {
			ok := from.moveLocked(to)
			return from, ok
		}), []string{
			"arrived -> unproven", "arrived -> pinged", "unproven -> arrived", "pinged -> arrived",
			"pinged -> ponged", "ponged -> arrived",
		}},
		{"role", transitions(t, roleTransport, func(from, to wsRole) (wsRole, bool) {
			ok := from.move(to)
			return from, ok
		}), []string{"probing -> answered", "probing -> transport", "answered -> transport"}},
		{"keep", transitions(t, keepCloses, func(from, to keepState) (keepState, bool) {
			ok := from.moveLocked(to)
			return from, ok
		}), []string{
			"unknown -> watching", "watching -> keeps", "watching -> closes", "keeps -> unknown", "closes -> watching",
		}},
		{"upgrade", transitions(t, upgradeFailed, func(from, to upgradeState) (upgradeState, bool) {
			ok := from.moveLocked(to)
			return from, ok
		}), []string{
			"none -> probing", "probing -> drainingPolls", "probing -> failed",
			"drainingPolls -> drainingPosts", "drainingPolls -> failed", "drainingPosts -> done",
			"drainingPosts -> failed",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if !slices.Equal(tt.got, tt.want) {
				t.Errorf("the transitions are %q, want %q", tt.got, tt.want)
			}
		})
	}
}
