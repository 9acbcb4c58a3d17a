package proxy

import (
	"slices"
	"sync/atomic"
)

// byNamespace holds a value for each namespace, in the order in which they were added. It is a
// slice: there is nearly always only one namespace, for which a map would be large.
type byNamespace[T comparable] []namespaceEntry[T]

type namespaceEntry[T comparable] struct {
	namespace string
	value     T
}

// get returns the value of a namespace, or the zero value.
func (m byNamespace[T]) get(namespace string) (value T) {
	for i := range m {
		if m[i].namespace == namespace {
			return m[i].value
		}
	}
	return value
}

func (m *byNamespace[T]) set(namespace string, value T) {
	for i := range *m {
		if (*m)[i].namespace == namespace {
			(*m)[i].value = value
			return
		}
	}
	if *m == nil {
		*m = make(byNamespace[T], 0, 1)
	}
	*m = append(*m, namespaceEntry[T]{namespace, value})
}

func (m *byNamespace[T]) remove(namespace string) {
	*m = slices.DeleteFunc(*m, func(e namespaceEntry[T]) bool { return e.namespace == namespace })
}

// trim removes entries that have ended, the oldest first, until no more than most remain.
func (m *byNamespace[T]) trim(most int, ended func(T) bool) {
	surplus := len(*m) - most
	if surplus <= 0 {
		return
	}
	*m = slices.DeleteFunc(*m, func(e namespaceEntry[T]) bool {
		if surplus <= 0 || !ended(e.value) {
			return false
		}
		surplus--
		return true
	})
}

// snapshot holds a value for each namespace. Reading takes no lock, because every message reads it.
// Changes are rare. They build a new list, and the caller holds the owner's lock.
type snapshot[T comparable] struct {
	first atomic.Pointer[snapshotEntry[T]]
}

// snapshotEntry is immutable.
type snapshotEntry[T comparable] struct {
	namespace string
	value     T
	next      *snapshotEntry[T]
}

// get returns the value of a namespace, or the zero value.
func (s *snapshot[T]) get(namespace string) (value T) {
	for e := s.first.Load(); e != nil; e = e.next {
		if e.namespace == namespace {
			return e.value
		}
	}
	return value
}

// find is get for a namespace inside a message. It does not allocate a string.
func (s *snapshot[T]) find(namespace []byte) (value T) {
	for e := s.first.Load(); e != nil; e = e.next {
		if e.namespace == string(namespace) {
			return e.value
		}
	}
	return value
}

func (s *snapshot[T]) set(namespace string, value T) {
	s.change(func(m *byNamespace[T]) { m.set(namespace, value) })
}

func (s *snapshot[T]) remove(namespace string) {
	s.change(func(m *byNamespace[T]) { m.remove(namespace) })
}

func (s *snapshot[T]) trim(most int, ended func(T) bool) {
	n := 0
	for e := s.first.Load(); e != nil; e = e.next {
		n++
	}
	if n > most {
		s.change(func(m *byNamespace[T]) { m.trim(most, ended) })
	}
}

func (s *snapshot[T]) change(fn func(m *byNamespace[T])) {
	var m byNamespace[T]
	for e := s.first.Load(); e != nil; e = e.next {
		m = append(m, namespaceEntry[T]{e.namespace, e.value})
	}
	fn(&m)
	var first *snapshotEntry[T]
	for _, e := range slices.Backward(m) {
		first = &snapshotEntry[T]{e.namespace, e.value, first}
	}
	s.first.Store(first)
}

func (s *snapshot[T]) clear() { s.first.Store(nil) }

func (s *snapshot[T]) empty() bool { return s.first.Load() == nil }

// all returns the values in a new slice.
func (s *snapshot[T]) all() []T {
	var values []T
	for e := s.first.Load(); e != nil; e = e.next {
		values = append(values, e.value)
	}
	return values
}
