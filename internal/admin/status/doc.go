// Package status is what holdfast tells an operator of its present state: the data of the status page
// and of /api/status, which docs/status.md describes.
//
// A Recorder remembers the latest recoveries and failures, and counts them over time. It is told once for each event
// in the life of a session, never for a packet. All else in a Report is the caller's to fill in, who has it at hand:
// this package knows neither the proxy nor HTTP.
//
// Nothing in a Report identifies or authorises a client: no pid, cookie, auth or address.
package status
