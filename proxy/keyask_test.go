package proxy

import "testing"

// All callers that asked a client learn of its answer, and nothing of it stays in memory.
func TestAskedClients(t *testing.T) {
	var a askedClients
	c, other := new(client), new(client)
	first, stopFirst := a.expect(c)
	second, stopSecond := a.expect(c)
	third, stopThird := a.expect(c)
	_, stopOther := a.expect(other)
	stopThird()
	a.answered(c)
	<-first
	<-second
	select {
	case <-third:
		t.Error("one that has stopped is told")
	default:
	}
	a.answered(c) // late
	stopFirst()
	stopSecond()
	stopOther()
	if len(a.waiting) != 0 {
		t.Errorf("%d clients are remembered", len(a.waiting))
	}
}
