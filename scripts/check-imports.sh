#!/usr/bin/env bash
# Checks the direction of imports against scripts/imports.txt, for Linux and for one other system.
set -euo pipefail
cd "$(dirname "$0")/.."

module=$(go list -m)
format='{{$p := .ImportPath}}{{$p}} {{range .Imports}}{{.}} {{end}}'
for os in linux darwin; do GOOS=$os CGO_ENABLED=0 go list -f "$format" ./...; done |
  sort -u |
  awk -v module="$module" '
    function own(path) { return path == module ? "." : substr(path, length(module) + 2) }
    function covers(pattern, name,    base) {
      if (pattern == name) return 1
      if (pattern !~ /\/\.\.\.$/) return 0
      base = substr(pattern, 1, length(pattern) - 4)
      return name == base || index(name, base "/") == 1
    }
    function fail(message) { print message ": see docs/design.md and scripts/imports.txt" > "/dev/stderr"; bad = 1 }

    FNR == NR {
      sub(/#.*/, "")
      if (split($0, half, ":") < 2) next
      gsub(/ /, "", half[1])
      rows[++count] = half[1]
      split(half[2], column, "|")
      allowed[half[1]] = column[1]
      forbidden[half[1]] = column[2]
      column[2] = ""
      next
    }
    {
      name = own($1)
      row = ""
      for (i = 1; i <= count; i++) if (covers(rows[i], name)) { row = rows[i]; used[row] = 1 }
      if (row == "") { fail("package " name " has no row"); next }
      for (i = 2; i <= NF; i++) {
        ours = $i == module || index($i, module "/") == 1
        target = ours ? own($i) : $i
        found = 0
        n = split(ours ? allowed[row] : forbidden[row], list, " ")
        for (j = 1; j <= n; j++) if (covers(list[j], target)) found = 1
        if (ours != found) fail("package " name " must not import " target)
      }
    }
    END {
      for (i = 1; i <= count; i++) if (!used[rows[i]]) fail("no package " rows[i])
      exit bad
    }' scripts/imports.txt -
