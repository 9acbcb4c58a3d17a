package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// CommandLine is what holdfast was started with.
type CommandLine struct {
	File    string // -config; "" for none
	Check   bool   // -check: validate, print, exit
	Version bool   // -version: print, exit
	Demo    bool   // -demo: run the demo
	// Handover is -handover: the demo restarts its holdfast.
	Handover bool
	// Replicas is -replicas: how many holdfasts the demo has. 0 means that it was not given.
	Replicas int
	// StopWithStdin is -stop-with-stdin: drain and stop when standard input ends.
	StopWithStdin bool

	set []flagValue // settings, in the order given
}

type flagValue struct{ name, key, value string }

// settingFlags are the settings that have a flag.
var settingFlags = []struct{ name, key, arg, usage string }{
	{"upstream", "upstream.url", "URL", "the Socket.IO server: http://, https:// or unix:///path.sock"},
	{"listen", "listen", "ADDR", "where clients connect: host:port, :port or unix:///path.sock"},
	{"admin", "admin.listen", "ADDR", `status page, metrics and health: an address like -listen; "" turns them off`},
	{"log-level", "log.level", "LEVEL", "debug, info, warn or error"},
	{"log-format", "log.format", "FORMAT", "text or json"},
}

// maxDemoReplicas limits -replicas.
const maxDemoReplicas = 10

// ParseArgs parses the command line without the program's name. Load checks the
// values of settings. The error is flag.ErrHelp for -h and -help, or an *Error.
func ParseArgs(args []string) (CommandLine, error) {
	var c CommandLine
	flags := flag.NewFlagSet("holdfast", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // main prints Usage and errors
	flags.StringVar(&c.File, "config", "", "")
	flags.BoolVar(&c.Check, "check", false, "")
	flags.BoolVar(&c.Version, "version", false, "")
	flags.BoolVar(&c.Demo, "demo", false, "")
	flags.BoolVar(&c.Handover, "handover", false, "")
	flags.Func("replicas", "", func(value string) (err error) {
		c.Replicas, err = parseReplicas(value)
		return err
	})
	flags.BoolVar(&c.StopWithStdin, "stop-with-stdin", false, "")
	for _, f := range settingFlags {
		flags.Func(f.name, "", func(value string) error {
			c.set = append(c.set, flagValue{"-" + f.name, f.key, value})
			return nil
		})
	}
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return CommandLine{}, err
	}
	message := ""
	switch {
	case err != nil:
		message = err.Error() + flagHint(flags, err.Error())
	case c.Handover && !c.Demo:
		message = "-handover belongs to -demo; to restart a running holdfast, use holdfast handover"
	case c.Replicas != 0 && (!c.Demo || c.Handover):
		message = "-replicas belongs to -demo, without -handover; replicas of a running holdfast are in cluster.peers"
	case flags.NArg() > 0:
		message = fmt.Sprintf("found the argument %q; allowed: flags only, see holdfast -h", flags.Arg(0))
	}
	if message != "" {
		return CommandLine{}, &Error{Problems: []Problem{{Source: "command line", Message: message}}}
	}
	return c, nil
}

// parseReplicas reads the value of -replicas.
func parseReplicas(value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > maxDemoReplicas {
		return 0, fmt.Errorf("allowed: 1 to %d", maxDemoReplicas)
	}
	return n, nil
}

// flagHint suggests a flag in place of an unknown one.
func flagHint(flags *flag.FlagSet, message string) string {
	name, ok := strings.CutPrefix(message, "flag provided but not defined: -")
	if !ok {
		return "; see holdfast -h"
	}
	var names []string
	flags.VisitAll(func(f *flag.Flag) { names = append(names, "-"+f.Name) })
	if hint := didYouMean("-"+name, names); hint != "" {
		return hint
	}
	return "; allowed: " + strings.Join(names, ", ")
}

// Usage writes the help text.
func Usage(w io.Writer) {
	var b strings.Builder
	b.WriteString(`holdfast adds connection state recovery to a Socket.IO server: run it in front of
the server, and point clients at it.

Usage:

  holdfast -upstream http://127.0.0.1:3000 -listen :8080
  holdfast -config holdfast.yaml
  holdfast -demo
  holdfast doctor URL    examine a Socket.IO server, and report what recovery will do
  holdfast init URL      the same, and write a configuration file for it
  holdfast probe URL     check as a client whether recovery works, and if not, why
  holdfast health        ask a running holdfast whether it is ready
  holdfast handover      restart a running holdfast without losing sessions
  holdfast completion bash|zsh|fish

Settings:

`)
	line := func(name, arg, text string) {
		fmt.Fprintf(&b, "  %-22s %s\n", strings.TrimSpace("-"+name+" "+arg), text)
	}
	line("config", "FILE", "settings in YAML; config.example.yaml lists all of them")
	defaults := Default()
	all := settings(&defaults)
	for _, f := range settingFlags {
		for _, s := range all {
			if s.key == f.key {
				line(f.name, f.arg, fmt.Sprintf("%s (default %s)", f.usage, s.format()))
			}
		}
	}
	line("stop-with-stdin", "", "drain and stop when standard input ends, as when a parent dies")
	b.WriteString("\nOther commands:\n\n")
	line("check", "", "check the settings, print the effective ones, and exit")
	line("version", "", "print the version, and exit")
	line("demo", "", "run a small server and client, and show a recovery")
	line("handover", "", "with -demo: also restart holdfast, and lose nothing")
	line("replicas", "N", "with -demo: run N replicas, and recover through another one")
	b.WriteString(`
Flags override environment variables, which override the file. Every setting has
a variable: recovery.max_disconnection_duration in the file is
HOLDFAST_RECOVERY_MAX_DISCONNECTION_DURATION; lists are comma-separated.
HOLDFAST_CONFIG can name the file.

Exit status: 0 after a normal shutdown, 1 after a failure, 2 for bad settings.
`)
	io.WriteString(w, b.String()) //nolint:errcheck // there is nowhere else to report it
}
