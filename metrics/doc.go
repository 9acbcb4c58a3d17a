// Package metrics defines every series that holdfast exports to Prometheus.
//
// A Metrics belongs to the Registerer it was made for. There is no
// package-level registry, so tests and several instances do not mix. All series
// exist from the start, at 0, so that alerts can rely on them.
//
// Counters that change with every packet are exported fields. Rarer events are
// counted by methods that take a Reason. All are safe for concurrent use.
//
// docs/metrics.md lists the series for operators. A test compares it with the
// code.
package metrics
