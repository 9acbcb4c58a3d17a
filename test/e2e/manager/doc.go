//go:build !linux

// Command manager is for Linux only.
package main

func main() {}
