package proxy

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
)

// TestClientDisconnects runs FuzzProxy's model with choices that favour one case: pages that stall,
// leave a namespace and come back to it. Packets in flight at that moment are the hard part.
func TestClientDisconnects(t *testing.T) {
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			m := newModel(t, true)
			m.modelReplica = m.startReplica(nil)
			m.choices = disconnectChoices(rand.New(rand.NewPCG(seed, 7)))
			for len(m.choices) > 0 && !t.Failed() {
				m.step()
				synctest.Wait()
			}
			m.drain()
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// disconnectChoices returns such choices for model.step.
func disconnectChoices(random *rand.Rand) []byte {
	steps := [][]byte{
		{12, 0},          // stall
		{12, 1},          // read again
		{0, 2, 3, 3, 3},  // three events
		{0, 2, 3, 0, 2},  // one with an acknowledgement, and a binary one
		{4, 1},           // an event from the page
		{13, 1, 0, 1},    // leave, and come back immediately
		{13, 1, 1},       // leave
		{13, 2},          // come back
		{13, 2},          // twice, to make it more likely
		{9},              // a new connection
		{7, 0},           // cut
		{14, 1}, {14, 1}, // time passes
		{13, 0}, {14, 80}, // the server disconnects, more time passes
		{8, 100}, {13, 3, 0}, // cut after some bytes, lose the upstream
	}
	var choices []byte
	for _, page := range []byte{0, 1} { // the pages connect first
		choices = append(choices, page, 0, 9)
	}
	for range 60 {
		n := random.IntN(len(steps))
		if random.IntN(3) > 0 {
			n = random.IntN(9)
		}
		choices = append(choices, byte(random.IntN(2)), byte(random.IntN(2)))
		choices = append(choices, steps[n]...)
	}
	return choices
}
