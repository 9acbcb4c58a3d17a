//go:build linux

package main

import (
	"slices"
)

// values are the figures of one trial by metric, without those that were not
// measured.
type values map[string]float64

// median of no values is 0.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	mid := len(v) / 2
	if len(v)%2 == 1 {
		return v[mid]
	}
	return (v[mid-1] + v[mid]) / 2
}

// quantile returns the smallest value that a share of q of all do not exceed.
// It sorts v.
func quantile[T ~int64](v []T, q float64) T {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	rank := int(q * float64(len(v)))
	if float64(rank) < q*float64(len(v)) {
		rank++
	}
	return v[max(rank, 1)-1]
}

// column collects a metric from trials, of which nil stands for a failed one.
func column(trials []values, metric string) []float64 {
	var v []float64
	for _, t := range trials {
		if x, ok := t[metric]; ok {
			v = append(v, x)
		}
	}
	return v
}

// ratio returns the median over all rounds of a's figure divided by b's in the same round. Load
// during a whole round then cancels out. It returns false if no round has both.
func ratio(a, b []values, metric string) (float64, bool) {
	var v []float64
	for i := range min(len(a), len(b)) {
		x, ok := a[i][metric]
		y, also := b[i][metric]
		if ok && also && y > 0 {
			v = append(v, x/y)
		}
	}
	return median(v), len(v) > 0
}
