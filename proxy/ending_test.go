package proxy

import (
	"sync"
	"testing"
)

func TestEnding(t *testing.T) {
	var e ending
	if e.happened() {
		t.Error("it has happened")
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { <-e.wait() })
	}
	first := e.wait()
	select {
	case <-first:
		t.Error("a wait is over")
	default:
	}
	e.happen()
	wg.Wait()
	<-first
	<-e.wait()
	if !e.happened() {
		t.Error("it has not happened")
	}
}
