package proxy

import (
	"sync"
	"testing"
)

func TestEvent(t *testing.T) {
	var e event
	if e.HasFired() {
		t.Error("it has fired")
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { <-e.Done() })
	}
	first := e.Done()
	select {
	case <-first:
		t.Error("a wait is over")
	default:
	}
	e.Fire()
	wg.Wait()
	<-first
	<-e.Done()
	if !e.HasFired() {
		t.Error("it has not fired")
	}
}
