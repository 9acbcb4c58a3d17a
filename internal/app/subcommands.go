package app

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/holdfast/holdfast/internal/buildinfo"
	"github.com/holdfast/holdfast/internal/completion"
	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/doctor"
	"github.com/holdfast/holdfast/internal/health"
	"github.com/holdfast/holdfast/internal/probe"
)

// subcommands are what the first argument may name instead of a flag.
var subcommands = map[string]func(ctx context.Context, args, environ []string, stdout io.Writer) error{
	"probe": func(ctx context.Context, args, _ []string, stdout io.Writer) error {
		return probe.Command(ctx, args, stdout)
	},
	"doctor": func(ctx context.Context, args, environ []string, stdout io.Writer) error {
		return asDoctor(environ).Doctor(ctx, args, stdout)
	},
	"init": func(ctx context.Context, args, environ []string, stdout io.Writer) error {
		return asDoctor(environ).Init(ctx, args, stdout)
	},
	"health":   health.Command,
	"handover": handoverCommand,
	"completion": func(_ context.Context, args, _ []string, stdout io.Writer) error {
		return completion.Command(args, helps(), stdout)
	},
}

// unknownCommand says what may stand where args name no flag and no subcommand.
func unknownCommand(args []string) error {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") || slices.Equal(args, []string{"help"}) {
		return nil
	}
	message := fmt.Sprintf("found %q; allowed: flags, or one of %s first; see holdfast -h", args[0], strings.Join(subcommandNames(), ", "))
	if strings.Contains(args[0], "://") {
		message = fmt.Sprintf("found the address %s; did you mean holdfast -upstream %[1]s, or holdfast doctor %[1]s?", args[0])
	}
	return &config.Error{Problems: []config.Problem{{Source: "command line", Message: message}}}
}

// subcommandNames are the names in the order of the help.
func subcommandNames() []string {
	var names []string
	for _, h := range helps() {
		if h.Name != "" {
			names = append(names, h.Name)
		}
	}
	return append(names, "completion")
}

// asDoctor says how the user calls holdfast. npx does not put it into the PATH of the shell.
func asDoctor(environ []string) doctor.Command {
	c := doctor.Command{Name: "holdfast", Version: buildinfo.Read().Version}
	if slices.Contains(environ, "npm_command=exec") {
		c.Name = "npx holdfast"
	}
	return c
}

// helps are the help texts that completions are generated from.
func helps() []completion.Help {
	var own, probing, looking, writing, asking, handing strings.Builder
	config.Usage(&own)
	_ = probe.Usage(&probing) // a Builder takes everything
	_ = doctor.DoctorUsage(&looking)
	_ = doctor.InitUsage(&writing)
	_ = health.Usage(&asking)
	_ = handoverUsage(&handing)
	return []completion.Help{
		{Text: own.String()},
		{Name: "doctor", Summary: "examine a Socket.IO server, and report what recovery will do", Text: looking.String()},
		{Name: "init", Summary: "the same, and write a configuration file for it", Text: writing.String()},
		{Name: "probe", Summary: "check as a client whether recovery works", Text: probing.String()},
		{Name: "health", Summary: "ask a running holdfast whether it is ready", Text: asking.String()},
		{Name: "handover", Summary: "restart a running holdfast without losing sessions", Text: handing.String()},
	}
}
