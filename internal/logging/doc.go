// Package logging makes the process's logger, which never stands in the way of
// the proxy.
//
// Log lines go to a file or pipe that others read, and everybody who logs
// waits for the write. A full disk makes it fail; a reader that has stopped
// makes it block, and with it every connection that has something to say. So a
// failed line is counted and forgotten, and after a short wait for a blocked
// one lines are kept, up to a limit, and then counted and forgotten too. The
// next line that gets through is followed by one that says how many were lost.
//
// One thing is left to main: writing to a closed pipe on standard output or
// error kills a Go process by SIGPIPE, unless that signal is ignored.
package logging
