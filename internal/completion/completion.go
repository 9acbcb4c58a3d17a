package completion

import (
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/holdfast/holdfast/internal/config"
)

// Help is a command's help text.
type Help struct {
	Name    string // of the subcommand; "" for holdfast itself
	Summary string // what it does, in a few words
	Text    string
}

// flag is one flag, parsed from its help text.
type flag struct {
	name   string // without dashes
	arg    string // what it takes, such as FILE; "" for none
	text   string
	values []string // all that it takes, where they are few
}

// command is what can be completed of holdfast or a subcommand.
type command struct {
	name, summary string
	flags         []flag
	words         []string // arguments that are not flags
}

// shells writes the completions of each shell.
var shells = []struct {
	name  string
	write func(b *strings.Builder, root command, subcommands []command)
}{
	{"bash", writeBash},
	{"zsh", writeZsh},
	{"fish", writeFish},
}

func shellNames() []string {
	var names []string
	for _, s := range shells {
		names = append(names, s.name)
	}
	return names
}

// own is the help of this subcommand.
var own = Help{"completion", "write completions for a shell", `holdfast completion writes completions for bash, zsh or fish.

Usage:

  source <(holdfast completion bash)                                            # bash, this shell only
  holdfast completion bash >/etc/bash_completion.d/holdfast                     # bash, for all users
  holdfast completion zsh >"${fpath[1]}/_holdfast"                              # zsh
  holdfast completion fish >~/.config/fish/completions/holdfast.fish            # fish
`}

// Command writes the completions for the shell that args names; args follow "completion". helps are
// the help texts of holdfast itself and of its other subcommands. Errors that wrap
// config.ErrInvalid are the user's to fix.
func Command(args []string, helps []Help, stdout io.Writer) error {
	if len(args) == 1 {
		switch args[0] {
		case "-h", "-help", "--help":
			_, err := io.WriteString(stdout, own.Text)
			return err
		}
		for _, s := range shells {
			if s.name == args[0] {
				_, err := io.WriteString(stdout, script(s.write, helps))
				return err
			}
		}
	}
	return &config.Error{Problems: []config.Problem{{
		Source:  "command line",
		Message: fmt.Sprintf("found %q after completion; allowed: one of %s", strings.Join(args, " "), strings.Join(shellNames(), ", ")),
	}}}
}

func script(write func(*strings.Builder, command, []command), helps []Help) string {
	var root command
	var subcommands []command
	for _, h := range append(helps, own) {
		c := command{name: h.Name, summary: h.Summary, flags: parse(h.Text)}
		switch h.Name {
		case "":
			root = c
			continue
		case own.Name:
			c.words = shellNames()
		}
		subcommands = append(subcommands, c)
	}
	for _, c := range subcommands {
		root.words = append(root.words, c.name)
	}
	var b strings.Builder
	write(&b, root, subcommands)
	return b.String()
}

var (
	// flagLine is a flag in a help text: two blanks, its name, what it takes, at least two blanks,
	// what it does.
	flagLine = regexp.MustCompile(`(?m)^  -([a-z-]+)(?: ([A-Z]+|[A-Z]=[A-Z]|'[^']+'))? {2,}(.*)$`)
	// choice is a description that lists all values: "debug, info, warn or error".
	choice = regexp.MustCompile(`^((?:[a-z-]+, )*[a-z-]+) or ([a-z-]+)(?: \(|$)`)
)

func parse(help string) []flag {
	var flags []flag
	for _, m := range flagLine.FindAllStringSubmatch(help, -1) {
		f := flag{name: m[1], arg: strings.Trim(m[2], "'"), text: m[3]}
		if c := choice.FindStringSubmatch(f.text); c != nil && f.arg != "" {
			f.values = append(strings.Split(c[1], ", "), c[2])
		}
		flags = append(flags, f)
	}
	return flags
}
