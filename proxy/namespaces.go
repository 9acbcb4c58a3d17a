package proxy

import "slices"

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
