// Package handover is the format in which one holdfast process hands its sessions to the next.
//
// A snapshot is a header and records:
//
//	header = magic (8 bytes) format (2) leastReader (2) zero (4) CRC-32C of these (4)
//	record = type (1) length of the payload (4) CRC-32C of type, length and payload (4) payload
//
// Numbers are little-endian. A payload is a list of fields. Each begins with a varint: the field's
// number, shifted left by one, plus 1 if the value is bytes. The value is a varint, or a length and
// that many bytes. A field that is zero is left out. A reader skips fields and records that it does
// not know.
//
// The order of records is
//
//	PROCESS LISTENER* LINK (BLOB* GROUP* SESSION)* ... END
//
// A SESSION belongs to the LINK before it. BLOBs are payloads that several logs share, and GROUPs
// are sessions that expire together. Both are numbered from 0 in their order, and precede the first
// record that names them. END counts the others, so that a truncated snapshot is recognized.
//
// # Versions
//
// A change that adds fields or records raises Format. A change that older readers would
// misunderstand raises LeastReader as well. testdata has a snapshot of each released format, and
// the tests read all of them.
//
// # Memory
//
// What Read passes to a Handler aliases the snapshot, with the exception of strings. Memory for
// decoded records is proportional to the size of one record.
package handover
