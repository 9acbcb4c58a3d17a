// Package status is the data of the status page and of /api/status, which docs/status.md describes.
//
// A Recorder remembers the latest recoveries and failures, and counts them over time. It is called
// for events in the life of a session, never for a packet. The caller fills in the rest of a
// Report: this package knows neither the proxy nor HTTP.
//
// Nothing in a Report identifies or authorizes a client: no pid, cookie, auth or address.
package status
