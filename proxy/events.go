package proxy

import (
	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/socketio"
	"github.com/holdfast/holdfast/session"
)

// newRetention returns a function that decides which events are kept for clients that are away. It
// returns nil if all are kept.
func newRetention(e config.Events) session.RetentionFunc {
	if len(e.Volatile) == 0 && len(e.Latest) == 0 {
		return nil
	}
	volatile, latest := config.ParseEventPatterns(e.Volatile), config.ParseEventPatterns(e.Latest)
	return func(namespace string, packet []byte) (session.Retention, []byte) {
		h, err := socketio.ParseHeader(packet)
		if err != nil {
			return session.Keep, nil
		}
		name, ok := socketio.EventName(packet[h.Data:])
		switch {
		case !ok:
			return session.Keep, nil
		case matchAny(volatile, namespace, name):
			return session.DropVolatile, name
		case matchAny(latest, namespace, name):
			return session.KeepLatest, name
		}
		return session.Keep, nil
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
