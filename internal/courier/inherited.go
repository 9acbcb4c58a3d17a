package courier

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Variable names the snapshot to the next program. It is not one of the HOLDFAST_ variables,
// because those are settings.
const Variable = "_HANDOVER"

// Results of a handover.
const (
	OK       = "ok"       // the next process has the sessions
	Failed   = "failed"   // this process continues; its clients were closed, and recover
	Restored = "restored" // the next program could not take over, and the old one continues
	Rejected = "rejected" // the next program was not tried, and nothing has changed
)

// Results returns all results.
func Results() []string { return []string{OK, Failed, Restored, Rejected} }

// Inherited is what a program was handed by the one before it.
type Inherited struct {
	Snapshot int    // descriptor of the snapshot
	Old      int    // descriptor of the old program's executable; -1 if there is no way back
	Failure  string // why the new program could not take over; empty unless this is the old one
}

// Inherit returns what the environment says was handed over, or nil. It returns environ without
// that.
func Inherit(environ []string) (in *Inherited, rest []string) {
	for _, v := range environ {
		text, ok := strings.CutPrefix(v, Variable+"=")
		if !ok {
			rest = append(rest, v)
			continue
		}
		_ = os.Unsetenv(Variable) // it is a valid name
		if parsed, err := parseInherited(text); err == nil {
			in = parsed
		}
	}
	return in, rest
}

// String returns the variable's value.
func (in *Inherited) String() string { return fmt.Sprintf("%d:%d:%s", in.Snapshot, in.Old, in.Failure) }

func parseInherited(text string) (*Inherited, error) {
	parts := strings.SplitN(text, ":", 3)
	if len(parts) != 3 {
		return nil, fmt.Errorf("courier: %s=%q", Variable, text)
	}
	fd, err := strconv.Atoi(parts[0])
	if err != nil {
		return nil, err
	}
	old, err := strconv.Atoi(parts[1])
	if err != nil {
		return nil, err
	}
	return &Inherited{fd, old, parts[2]}, nil
}
