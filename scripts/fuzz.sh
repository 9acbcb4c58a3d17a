#!/usr/bin/env bash
# Runs every fuzz target for FUZZTIME (default 30s). PACKAGES selects packages, and FUZZ, a regular expression,
# selects targets.
set -euo pipefail

time=${FUZZTIME:-30s}
count=0
for package in $(go list "${PACKAGES:-./...}"); do
  for target in $(go test -list "^Fuzz.*${FUZZ:-}" "$package" | grep '^Fuzz' || true); do
    count=$((count + 1))
    echo "=== $package $target, $time"
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package"
  done
done
if [ "$count" = 0 ]; then
  echo "no fuzz target found" >&2
  exit 1
fi
