#!/usr/bin/env bash
# Runs every fuzz target for FUZZTIME (default 30s). PACKAGES selects packages, and FUZZ, a regular
# expression, selects targets.
set -euo pipefail

time=${FUZZTIME:-30s}
count=0
for package in $(go list "${PACKAGES:-./...}"); do
  for target in $(go test -list "^Fuzz.*${FUZZ:-}" "$package" | grep '^Fuzz' || true); do
    count=$((count + 1))
    echo "=== $package $target, $time"
    # Where goroutines are involved, coverage differs from run to run. go would then spend a minute
    # on each new input, and fail to minimize it.
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1x "$package"
  done
done
if [ "$count" = 0 ]; then
  echo "no fuzz target found" >&2
  exit 1
fi
