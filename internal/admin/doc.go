// Package admin answers the operator: status page, metrics, health and readiness.
//
// Its handler belongs on a listener of its own, which the public cannot reach:
// nothing on it asks for a password. It knows nothing of the proxy beyond the
// functions that tell whether it is ready and how it is.
package admin
