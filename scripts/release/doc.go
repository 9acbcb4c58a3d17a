// Command release builds what a release consists of: archives, Debian and RPM packages, checksums
// and an SBOM (dist), and the packages for npm (npm). The Makefile calls it.
//
// Builds are reproducible: times are the commit's, owners are root, entries are sorted.
package main
