package proxy

import (
	"slices"
	"sync/atomic"
)

// byNamespace holds a value for each namespace. There is nearly always one in all, for which a map would be large. Its order is
// that in which they came.
type byNamespace[T comparable] []namespaceEntry[T]

type namespaceEntry[T comparable] struct {
	namespace string
	value     T
}

// get returns the zero value for a namespace without one.
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

// values are all, in a slice of their own.
func (m byNamespace[T]) values() []T {
	values := make([]T, len(m))
	for i := range m {
		values[i] = m[i].value
	}
	return values
}

// snapshot is a byNamespace that is read without a lock, for every message has to look there. Changes, which are rare,
// are made with a lock of the owner's held, and make a new one.
type snapshot[T comparable] struct {
	p atomic.Pointer[byNamespace[T]]
}

// all is what there is now. It must not be changed.
func (s *snapshot[T]) all() byNamespace[T] {
	if m := s.p.Load(); m != nil {
		return *m
	}
	return nil
}

func (s *snapshot[T]) get(namespace string) T { return s.all().get(namespace) }

func (s *snapshot[T]) set(namespace string, value T) {
	m := slices.Clone(s.all())
	m.set(namespace, value)
	s.p.Store(&m)
}

func (s *snapshot[T]) remove(namespace string) {
	m := slices.Clone(s.all())
	m.remove(namespace)
	s.p.Store(&m)
}

func (s *snapshot[T]) clear() { s.p.Store(nil) }
