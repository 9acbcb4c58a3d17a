// Package logging creates the process's logger, which never blocks the proxy for long.
//
// Writing a log line to a file or pipe can fail, for example on a full disk. It
// can also block if the reader has stopped, and then every connection that logs
// would block. So a line that fails is counted and dropped. After a short wait
// for a blocked line, further lines are queued up to a limit, and then counted
// and dropped. The next line that is written is followed by one that says how
// many were lost.
//
// The caller must ignore SIGPIPE: otherwise writing to a closed pipe on standard
// output or error kills a Go process.
package logging
