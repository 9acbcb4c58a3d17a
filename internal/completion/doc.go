// Package completion is the subcommand `holdfast completion`: it writes completions for bash, zsh
// and fish.
//
// They are generated from the help texts of holdfast and its subcommands, so that whatever has help
// is completed.
package completion
