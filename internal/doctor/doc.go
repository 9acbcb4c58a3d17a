// Package doctor implements `holdfast doctor` and `holdfast init`: it looks at a running server,
// and says what recovery will do for its clients and what it will not. init also writes a
// configuration file.
//
// look.go asks the server, and only it. What it saw is a Server, which findings.go and outlook.go
// put into words, and file.go into a file. The doctor leaves nothing behind: it closes each
// connection that it opens.
package doctor
