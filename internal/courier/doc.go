// Package courier carries a handover from one process to the next: the snapshot, the sockets, and
// the outcome. It does not know sessions or the proxy.
//
// The snapshot is in a memfd, a file that exists in memory only. There are two ways to pass it on:
//
//   - Exec replaces the program of this process. Descriptors keep their numbers, so nothing is
//     sent. The new program reads which descriptor is the snapshot in an environment variable. If
//     it cannot take over, it replaces itself by the old program in the same way (exec_linux.go).
//   - The service manager keeps the descriptors while no process runs, in systemd's file descriptor
//     store (store_linux.go).
//
// Both need Linux. On other systems Supported is false.
package courier
