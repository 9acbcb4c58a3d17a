package buffer

import "sync/atomic"

// Budget counts what all logs of the process hold, and has the payloads that they share. It is safe
// for concurrent use. A nil Budget counts nothing.
type Budget struct {
	packets atomic.Int64
	bytes   atomic.Int64
	limit   int64
	shares  shares
}

// NewBudget returns a Budget of limit bytes. 0 is no limit.
func NewBudget(limit int64) *Budget { return &Budget{limit: limit} }

func (b *Budget) add(bytes, packets int) {
	if b == nil {
		return
	}
	b.bytes.Add(int64(bytes))
	b.packets.Add(int64(packets))
}

// Bytes returns about how much memory all packets take.
func (b *Budget) Bytes() int64 {
	if b == nil {
		return 0
	}
	return b.bytes.Load()
}

// Packets returns how many packets all logs hold.
func (b *Budget) Packets() int64 {
	if b == nil {
		return 0
	}
	return b.packets.Load()
}

// Limit returns the limit in bytes. 0 is no limit.
func (b *Budget) Limit() int64 {
	if b == nil {
		return 0
	}
	return b.limit
}

// Exceeded reports whether the logs hold more than the limit.
func (b *Budget) Exceeded() bool { return b.Limit() > 0 && b.Bytes() > b.Limit() }
