package buffer

// This file moves a log to another process: session.Exporter reads it, and session.Importer builds
// it again.

// ShortLived reports whether the packet was appended as a short-lived one.
func (e *Entry) ShortLived() bool { return e.shortLived }

// Shared reports whether a part of the entry, its data or an attachment, is shared with other logs.
// The parts of all of them are then the same memory.
func (e *Entry) Shared(part []byte) bool { return e.shares(part) }

// Restore makes an empty, new log continue after the packet with this number.
func (l *Log) Restore(trimmed uint64) { l.trimmed = trimmed }

// AppendDropped adds the number of a packet that was dropped. late is its DroppedLate.
func (l *Log) AppendDropped(late bool) {
	*l.grow() = Entry{kind: Dropped, late: late}
	l.dropped++
	l.bytes += packetOverhead
	l.budget.add(packetOverhead, 0)
}

// Hold shares a payload before any log has it, so that logs which append it need not copy it. It
// returns the shared bytes, which Unhold takes back.
func (b *Budget) Hold(data []byte) []byte { return b.share(data) }

// Unhold takes back what Hold returned. Logs that have appended it keep it.
func (b *Budget) Unhold(data []byte) { b.release(data) }
