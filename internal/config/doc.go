// Package config turns a YAML file, environment variables and command-line
// flags into one Config.
//
// Later sources win: defaults, then the file, then HOLDFAST_ variables, then flags. Every setting
// is one field of Config. Reflection derives its key in the file, the name of its environment
// variable and its place in the printed configuration from that field, so none can be forgotten.
//
// Load never guesses. It collects unknown keys, duplicates, malformed values and
// values out of range, and reports them together: each with its key, where it
// was found, what was found and what is allowed. docs/configuration.md is the
// user's view of the same settings.
package config
