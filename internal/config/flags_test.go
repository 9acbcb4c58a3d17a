package config

import (
	"errors"
	"flag"
	"reflect"
	"strings"
	"testing"
)

func TestParseArgs(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want CommandLine
		err  string
	}{
		{"none", nil, CommandLine{}, ""},
		{"modes", []string{"-check", "-version", "-demo"}, CommandLine{Check: true, Version: true, Demo: true}, ""},
		{"file", []string{"--config=a.yaml"}, CommandLine{File: "a.yaml"}, ""},
		{"positional", []string{"-check", "http://a:1"}, CommandLine{}, `invalid configuration: command line: found the argument "http://a:1"; allowed: flags only, see holdfast -h`},
		{"unknown", []string{"-zzz"}, CommandLine{}, "invalid configuration: command line: flag provided but not defined: -zzz; allowed: -admin, -check, -config,"},
		{"misspelt", []string{"-upstrem", "x"}, CommandLine{}, "invalid configuration: command line: flag provided but not defined: -upstrem; did you mean -upstream?"},
		{"no value", []string{"-listen"}, CommandLine{}, "invalid configuration: command line: flag needs an argument: -listen; see holdfast -h"},
		{"bad bool", []string{"-check=maybe"}, CommandLine{}, `invalid configuration: command line: invalid boolean value "maybe" for -check`},
		{"replicas", []string{"-demo", "-replicas", "3"}, CommandLine{Demo: true, Replicas: 3}, ""},
		{"no replicas", []string{"-demo", "-replicas", "0"}, CommandLine{}, `invalid configuration: command line: invalid value "0" for flag -replicas: allowed: 1 to 10; see holdfast -h`},
		{"fewer than none", []string{"-demo", "-replicas=-1"}, CommandLine{}, `invalid configuration: command line: invalid value "-1" for flag -replicas: allowed: 1 to 10`},
		{"too many replicas", []string{"-demo", "-replicas=11"}, CommandLine{}, `invalid configuration: command line: invalid value "11" for flag -replicas: allowed: 1 to 10`},
		{"no number", []string{"-demo", "-replicas", "99999999999999999999"}, CommandLine{}, `invalid configuration: command line: invalid value "99999999999999999999" for flag -replicas: allowed: 1 to 10`},
		{"replicas without the demo", []string{"-replicas", "2"}, CommandLine{}, "invalid configuration: command line: -replicas belongs to -demo, without -handover"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseArgs(tt.args)
			if tt.err != "" {
				if err == nil || !errors.Is(err, ErrInvalid) || !strings.HasPrefix(err.Error(), tt.err) {
					t.Errorf("ParseArgs(%q): %v; want %s", tt.args, err, tt.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("ParseArgs(%q) = %+v, %v; want %+v", tt.args, got, err, tt.want)
			}
		})
	}
	if _, err := ParseArgs([]string{"-h"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: %v", err)
	}
}

func TestFlagProblem(t *testing.T) {
	_, _, err := load(t, []string{"-log-level", "loud"}, nil)
	if got := problems(t, err); len(got) != 1 || got[0] != `-log-level: log.level: found "loud"; allowed: debug, info, warn or error` {
		t.Errorf("got %q", got)
	}
}

func TestUsage(t *testing.T) {
	var b strings.Builder
	Usage(&b)
	for _, f := range settingFlags {
		if !strings.Contains(b.String(), "\n  -"+f.name+" ") {
			t.Errorf("no -%s in:\n%s", f.name, b.String())
		}
	}
	for _, want := range []string{"-config FILE", "-check", "-version", "-demo", "(default http://127.0.0.1:3000)", "HOLDFAST_CONFIG"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in:\n%s", want, b.String())
		}
	}
}
