// Package health is the subcommand `holdfast health`: it asks a running holdfast on this machine
// whether it is ready. Container images without a shell use it as their health check.
package health
