// Package admin answers the operator: metrics, health and readiness.
//
// Its handler belongs on a listener of its own, which the public cannot reach:
// nothing on it asks for a password. It knows nothing of the proxy beyond the
// function that tells whether it is ready.
package admin
