// Package app is the holdfast command: it reads the command line and the configuration, wires the
// other packages together, and runs until a signal ends it.
//
//   - command.go: the command line, and which command runs
//   - instance.go: a running holdfast, from listening to draining
//   - admin.go: the admin listener
//   - reload.go: SIGHUP
//   - memory.go: returns memory to the system when the process is idle
//   - demo.go: holdfast -demo
package app
