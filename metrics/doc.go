// Package metrics defines every series that holdfast exports to Prometheus.
//
// A Metrics belongs to the Registerer it was made for; there is no registry of
// the package's own, so that tests and several instances do not mix. All
// series exist from the start, at 0: an alert can rely on them.
//
// What is counted for every packet is a field that holds the counter itself,
// ready to Add to. Rarer events are counted by a method that takes a Reason.
// The methods and fields are safe for concurrent use.
//
// docs/metrics.md lists the series for operators; a test holds it and the code
// together.
package metrics
