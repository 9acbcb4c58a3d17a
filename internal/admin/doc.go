// Package admin serves operators: status page, metrics, health and readiness.
//
// Its handler belongs on a listener that the public cannot reach, because it
// requires no password. It does not know the proxy: functions tell it whether the
// proxy is ready, and its status.
package admin
