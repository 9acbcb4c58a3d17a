package app

import (
	"context"
	"io"
	"strings"

	"github.com/holdfast/holdfast/internal/completion"
	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/health"
	"github.com/holdfast/holdfast/internal/probe"
)

// subcommands are what the first argument may name instead of a flag.
var subcommands = map[string]func(ctx context.Context, args, environ []string, stdout io.Writer) error{
	"probe": func(ctx context.Context, args, _ []string, stdout io.Writer) error {
		return probe.Command(ctx, args, stdout)
	},
	"health":   health.Command,
	"handover": handoverCommand,
	"completion": func(_ context.Context, args, _ []string, stdout io.Writer) error {
		return completion.Command(args, helps(), stdout)
	},
}

// helps are the help texts that completions are generated from.
func helps() []completion.Help {
	var own, probing, asking, handing strings.Builder
	config.Usage(&own)
	_ = probe.Usage(&probing) // a Builder takes everything
	_ = health.Usage(&asking)
	_ = handoverUsage(&handing)
	return []completion.Help{
		{Text: own.String()},
		{Name: "probe", Summary: "check as a client whether recovery works", Text: probing.String()},
		{Name: "health", Summary: "ask a running holdfast whether it is ready", Text: asking.String()},
		{Name: "handover", Summary: "restart a running holdfast without losing sessions", Text: handing.String()},
	}
}
