// Package config turns a YAML file, environment variables and command-line
// flags into one Config.
//
// Later sources win: defaults, then the file, then HOLDFAST_ variables, then
// flags. Every setting is one field of Config; its key in the file, the name
// of its environment variable and its place in the printed configuration are
// all derived from that field by reflection, so none can be forgotten.
//
// A mistake is never guessed around. Unknown keys, duplicates, values of the
// wrong form or out of range are all collected and reported together, each
// with its key, the place it was found in, what was found and what is allowed.
// docs/configuration.md is the user's view of the same settings.
package config
