package proxy

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
)

// What FuzzProxy does by whatever the fuzzer chooses, with pages that often leave namespaces and come back to them, while
// they read nothing for a moment: what is on its way then is what is delicate.
func TestGoodbyes(t *testing.T) {
	const leaves, returns, stalls, resumes = 0, 1, 2, 3
	for seed := range uint64(100) {
		random := rand.New(rand.NewPCG(seed, 7))
		choices := make([]byte, 400)
		for i := range choices {
			choices[i] = byte(random.Uint32())
		}
		for i := 2; i+2 < len(choices); i += 3 + random.IntN(9) { // see model.step
			switch random.IntN(5) {
			case leaves:
				copy(choices[i:], []byte{13, 1, byte(random.IntN(4))})
			case returns:
				copy(choices[i:], []byte{13, 2})
			case stalls:
				copy(choices[i:], []byte{12, 0})
			case resumes:
				copy(choices[i:], []byte{12, 1})
			}
		}
		synctest.Test(t, func(t *testing.T) {
			m := newModel(t, true)
			m.choices = choices
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
