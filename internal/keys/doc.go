// Package keys knows which sessions and clients belong to which key, for keyed recovery.
//
// A Ring has the keys of this replica: which client has each, and its sessions. A Directory has the
// keys of other replicas. docs/adr/0011-keyed-recovery.md and 0015-keys-over-replicas.md have the
// whole. Package keys holds clients only as session.Owner, and ends none: that is up to its caller.
package keys
