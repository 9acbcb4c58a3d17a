// Package limit bounds how often something may happen: per client address (AddressRate) and per
// kind of log line (Logger). It does not know requests or sessions.
package limit
