package session

import (
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/holdfast/holdfast/internal/handover"
	"github.com/holdfast/holdfast/internal/reason"
)

// rememberedEnds is for how many closed sessions the registry remembers why they were closed. It
// tells clients that return too late.
const rememberedEnds = 8192

// Ends remembers why recent sessions were closed, by their pids. It is safe for concurrent use.
type Ends struct {
	byPID *lru.Cache[string, reason.Reason]
}

func newEnds() *Ends {
	cache, err := lru.New[string, reason.Reason](rememberedEnds)
	if err != nil {
		panic(err) // the size is positive
	}
	return &Ends{cache}
}

func (e *Ends) add(pid string, why reason.Reason) { e.byPID.Add(pid, why) }

func (e *Ends) why(pid string) (why reason.Reason, ok bool) { return e.byPID.Get(pid) }

// Export returns what another process must know of the ends, the oldest first.
func (e *Ends) Export() []handover.End {
	var ends []handover.End
	for _, pid := range e.byPID.Keys() {
		if why, ok := e.byPID.Peek(pid); ok {
			ends = append(ends, handover.End{PID: pid, Reason: string(why)})
		}
	}
	return ends
}

// Import adds what Export returned.
func (e *Ends) Import(ends []handover.End) {
	for _, end := range ends {
		if why, ok := reason.Parse(end.Reason); ok {
			e.add(end.PID, why)
		}
	}
}
