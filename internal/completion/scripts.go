package completion

import (
	"fmt"
	"strings"
)

const header = "completion for holdfast. `holdfast completion` wrote it.\n"

// writeBash writes a function that works with or without the package bash-completion. Bash splits
// words at = and :, which it also does in -flag=value.
func writeBash(b *strings.Builder, root command, subcommands []command) {
	b.WriteString("# bash " + header + `
_holdfast() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}
  if [ "$cur" = = ]; then
    cur=
  elif [ "$prev" = = ]; then
    prev=${COMP_WORDS[COMP_CWORD-2]}
  fi
  [ "$COMP_CWORD" -gt 1 ] || command=
  COMPREPLY=()
  local flags words=
  case $command in
`)
	for _, c := range subcommands {
		fmt.Fprintf(b, "    %s)\n", c.name)
		bashCommand(b, c)
		b.WriteString("      ;;\n")
	}
	b.WriteString("    *)\n")
	root.words = nil // only as the first word, below
	bashCommand(b, root)
	b.WriteString("      ;;\n  esac\n")
	b.WriteString("  [ \"$COMP_CWORD\" -gt 1 ] || words='" + strings.Join(names(subcommands), " ") + "'\n")
	b.WriteString(`  case $cur in
    --*) COMPREPLY=($(compgen -P -- -W "$flags" -- "${cur#--}")) ;;
    -*) COMPREPLY=($(compgen -P - -W "$flags" -- "${cur#-}")) ;;
    *) COMPREPLY=($(compgen -W "$words" -- "$cur")) ;;
  esac
}
complete -F _holdfast holdfast
`)
}

// bashCommand sets flags and words, and completes what follows a flag that takes something.
func bashCommand(b *strings.Builder, c command) {
	var all []string
	var cases strings.Builder
	for _, f := range c.flags {
		all = append(all, f.name)
		if f.arg == "" {
			continue
		}
		fmt.Fprintf(&cases, "        -%s | --%s) ", f.name, f.name)
		switch {
		case f.arg == "FILE":
			cases.WriteString("compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- \"$cur\")); ")
		case f.values != nil:
			fmt.Fprintf(&cases, "COMPREPLY=($(compgen -W '%s' -- \"$cur\")); ", strings.Join(f.values, " "))
		}
		cases.WriteString("return ;;\n")
	}
	fmt.Fprintf(b, "      flags='%s'\n", strings.Join(all, " "))
	if c.words != nil {
		fmt.Fprintf(b, "      words='%s'\n", strings.Join(c.words, " "))
	}
	if cases.Len() > 0 {
		b.WriteString("      case $prev in\n" + cases.String() + "      esac\n")
	}
}

func writeZsh(b *strings.Builder, root command, subcommands []command) {
	b.WriteString("#compdef holdfast\n# zsh " + header + `
_holdfast() {
  if ((CURRENT > 2)); then
    case $words[2] in
`)
	for _, c := range subcommands {
		fmt.Fprintf(b, "      %s)\n        shift words\n        ((CURRENT--))\n        _arguments%s", c.name, zshFlags(c.flags, "          "))
		if c.words != nil {
			fmt.Fprintf(b, " \\\n          '1:%s:(%s)'", c.name, strings.Join(c.words, " "))
		}
		b.WriteString("\n        return\n        ;;\n")
	}
	b.WriteString("    esac\n  fi\n  local -a commands=(\n")
	for _, c := range subcommands {
		fmt.Fprintf(b, "    %s\n", quote(c.name+":"+c.summary))
	}
	b.WriteString("  )\n  _arguments" + zshFlags(root.flags, "    ") + " \\\n    '1::command:{_describe command commands}'\n}\n")
	// The file is either found in fpath, and then called, or sourced.
	b.WriteString(`
if [ "$funcstack[1]" = _holdfast ]; then
  _holdfast "$@"
else
  compdef _holdfast holdfast
fi
`)
}

// zshFlags are the specifications of _arguments: with one dash and with two, one of which can be
// given.
func zshFlags(flags []flag, indent string) string {
	var b strings.Builder
	escape := strings.NewReplacer("[", `\[`, "]", `\]`, ":", `\:`)
	for _, f := range flags {
		end := "[" + escape.Replace(f.text) + "]"
		if f.arg != "" {
			action := " "
			switch {
			case f.arg == "FILE":
				action = "_files"
			case f.values != nil:
				action = "(" + strings.Join(f.values, " ") + ")"
			}
			end += ":" + escape.Replace(f.arg) + ":" + action
		}
		for _, dashes := range []string{"-", "--"} {
			fmt.Fprintf(&b, " \\\n%s%s", indent, quote(fmt.Sprintf("(-%s --%s)%s%s%s", f.name, f.name, dashes, f.name, end)))
		}
	}
	return b.String()
}

func writeFish(b *strings.Builder, root command, subcommands []command) {
	b.WriteString("# fish " + header + "\ncomplete -c holdfast -f\n")
	for _, c := range append([]command{root}, subcommands...) {
		condition := "not __fish_seen_subcommand_from " + strings.Join(names(subcommands), " ")
		if c.name != "" {
			condition = "__fish_seen_subcommand_from " + c.name
			fmt.Fprintf(b, "complete -c holdfast -n __fish_is_first_arg -a %s -d %s\n", c.name, quote(c.summary))
			if c.words != nil {
				fmt.Fprintf(b, "complete -c holdfast -n %s -a %s\n", quote(condition), quote(strings.Join(c.words, " ")))
			}
		}
		for _, f := range c.flags {
			takes := ""
			switch {
			case f.arg == "FILE":
				takes = " -r -F"
			case f.values != nil:
				takes = " -x -a " + quote(strings.Join(f.values, " "))
			case f.arg != "":
				takes = " -x"
			}
			fmt.Fprintf(b, "complete -c holdfast -n %s -o %s -l %s%s -d %s\n", quote(condition), f.name, f.name, takes, quote(f.text))
		}
	}
}

func names(commands []command) []string {
	var list []string
	for _, c := range commands {
		list = append(list, c.name)
	}
	return list
}

// quote is for all three shells: in single quotes, with no single quote inside.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "’") + "'" }
