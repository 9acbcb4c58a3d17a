// Package doctor implements `holdfast doctor` and `holdfast init`. Both examine a running server,
// and report what recovery will do for its clients and what it will not do. init also writes a
// configuration file.
//
// Only look.go connects to the server. Its result is a Server, which findings.go and outlook.go
// describe in words, and file.go in a configuration file. The doctor leaves nothing behind: it
// closes each connection that it opens.
package doctor
