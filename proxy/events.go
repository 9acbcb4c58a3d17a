package proxy

import (
	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// newFates returns what tells the events that are not for clients which were away, or nil where all are.
func newFates(e config.Events) session.Fates {
	if len(e.Volatile) == 0 && len(e.Latest) == 0 {
		return nil
	}
	volatile, latest := config.ParseEventPatterns(e.Volatile), config.ParseEventPatterns(e.Latest)
	return func(namespace string, packet []byte) (session.Fate, []byte) {
		h, err := socketio.ParseHeader(packet)
		if err != nil {
			return session.Kept, nil
		}
		name, ok := socketio.EventName(packet[h.Data:])
		switch {
		case !ok:
			return session.Kept, nil
		case matchAny(volatile, namespace, name):
			return session.Volatile, name
		case matchAny(latest, namespace, name):
			return session.Latest, name
		}
		return session.Kept, nil
	}
}

func matchAny(patterns []config.EventPattern, namespace string, event []byte) bool {
	for _, p := range patterns {
		if p.Match(namespace, event) {
			return true
		}
	}
	return false
}
