//go:build linux

package main

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOptions(t *testing.T) {
	parse := func(args ...string) *options {
		t.Helper()
		o, err := parseOptions(args, io.Discard)
		if err != nil {
			t.Fatalf("parseOptions(%q): %v", args, err)
		}
		return o
	}
	if o := parse(); o.rounds != 5 || o.targetsGiven || !slices.Equal(o.broadcastPayloads, []int{32, 512, 16384}) {
		t.Errorf("defaults: %+v", o)
	}
	if o := parse("-short", "-duration", "5s"); o.rounds != 3 || o.duration != 5*time.Second {
		t.Errorf("-short -duration 5s: %d rounds of %v, want 3 of 5s", o.rounds, o.duration)
	}
	if o := parse("-targets", "raw, raw,direct", "-scenarios", "parked,broadcast-7", "-broadcast-payloads", "7"); !o.targetsGiven ||
		!slices.Equal(o.targets, []string{"raw", "direct"}) || !slices.Equal(o.scenarios, []string{"parked", "broadcast-7"}) {
		t.Errorf("lists: %+v", o)
	}
}

func TestOptionsRefused(t *testing.T) {
	for _, args := range [][]string{
		{"-targets", "apache"},
		{"-scenarios", "broadcast-33"},
		{"-broadcast-payloads", "32,many"},
		{"-broadcast-payloads", "1000000"},
		{"-rounds", "0"},
		{"-duration", "0"},
		{"-storm-clients", "-1"},
		{"more"},
	} {
		if _, err := parseOptions(args, io.Discard); err == nil {
			t.Errorf("parseOptions(%q) succeeded", args)
		}
	}
}

func TestHelpNamesWhatShortMeans(t *testing.T) {
	var out strings.Builder
	if _, err := parseOptions([]string{"-h"}, &out); err != flag.ErrHelp { //nolint:errorlint // as package flag returns it
		t.Fatalf("parseOptions(-h): %v, want flag.ErrHelp", err)
	}
	for name, value := range shortValues {
		if want := "-" + name + " " + value; !strings.Contains(out.String(), want) {
			t.Errorf("the help lacks %q", want)
		}
	}
}

func TestFitSaysWhatItLowers(t *testing.T) {
	o, err := parseOptions([]string{"-broadcast-clients", "9000"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var notes []string
	o.fit(4300, func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) })
	if o.broadcastClients != 2000 || o.stormClients != 1000 || o.clients != 64 {
		t.Errorf("with 4300 files: broadcast %d, storm %d, clients %d; want 2000, 1000, 64",
			o.broadcastClients, o.stormClients, o.clients)
	}
	if len(notes) != 3 || !strings.Contains(notes[0], "2000, not the 9000 asked for") {
		t.Errorf("notes: %q, want three, on -broadcast-clients, -storm-clients and -handover-clients", notes)
	}
}

func TestMissingProxyIsAnErrorOnlyIfAskedFor(t *testing.T) {
	var notes []string
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	for _, tt := range []struct {
		args    []string
		wantErr bool
	}{
		{[]string{"-nginx", "no-such-program"}, false},
		{[]string{"-nginx", "no-such-program", "-targets", "nginx"}, true},
	} {
		o, err := parseOptions(tt.args, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.findPrograms(note); (err != nil) != tt.wantErr {
			t.Errorf("%q: %v, want an error: %v", tt.args, err, tt.wantErr)
		}
		if !tt.wantErr && (slices.Contains(o.targets, nginxName) || !slices.ContainsFunc(notes, func(n string) bool {
			return strings.HasPrefix(n, "nginx is not measured")
		})) {
			t.Errorf("%q: targets %q, notes %q; want no nginx, and a note", tt.args, o.targets, notes)
		}
	}
}

func TestOnlyTheUsersVariablesReachHoldfast(t *testing.T) {
	t.Setenv("HOLDFAST_LISTEN", ":1")
	t.Setenv("HOLDFAST_LOG_FORMAT", "json")
	if got, want := holdfastVariables(), []string{"HOLDFAST_LOG_FORMAT=json"}; !slices.Equal(got, want) {
		t.Errorf("holdfastVariables() = %q, want %q", got, want)
	}
}
