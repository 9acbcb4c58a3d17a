package netpoll

import "sync/atomic"

// loopOff is set while the event loop is switched off.
var loopOff atomic.Bool

// Setup chooses how the process serves connections that are made from then on. The default is the
// event loop. Without it, goroutines and package net serve them. Call it before the first
// connection.
//
// It returns an error if the event loop cannot be started, or only in part. Connections are then
// served by what there is: fewer loops, or goroutines.
func Setup(eventLoop bool) error {
	loopOff.Store(!eventLoop)
	if !eventLoop {
		return nil
	}
	return startLoops()
}
