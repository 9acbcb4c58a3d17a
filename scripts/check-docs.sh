#!/usr/bin/env bash
# Checks that the files that documents link to exist, the tests that guarantees.md names, and the
# functions that design.md names.
set -euo pipefail
cd "$(dirname "$0")/.."
bad=0
complain() {
  echo "$1" >&2
  bad=1
}

for doc in *.md docs/*.md docs/adr/*.md deploy/*.md deploy/helm/*/*.md; do
  while IFS= read -r link; do
    target=${link%%#*}
    [ -e "$(dirname "$doc")/$target" ] || complain "$doc: nothing at $target"
  done < <(grep -oE '\]\([^)]+\)' "$doc" | sed -E 's/^\]\(//; s/\)$//' | grep -vE '^(https?:|#)' || true)
done

# `name.test.js: group > test`, `package: TestName`
while IFS= read -r ref; do
  where=${ref%%: *}
  what=${ref#*: }
  case $where in
    *.test.js)
      file=test/e2e/test/$where
      [ -e "$file" ] || { complain "docs/guarantees.md: no $file"; continue; }
      while IFS= read -r part; do
        grep -qF -- "(\"$part" "$file" || grep -qF -- "(\`$part" "$file" || complain "docs/guarantees.md: no \"$part\" in $file"
      done < <(sed 's/ > /\n/g' <<<"$what")
      ;;
    *)
      grep -qsE "^func $what\(" "$where"/*_test.go internal/"$where"/*_test.go || complain "docs/guarantees.md: no $what in $where"
      ;;
  esac
done < <(grep -oE '`([a-z-]+\.test\.js|[a-z/]+): [^`]+`' docs/guarantees.md | tr -d '`' | grep -E '^([a-z-]+\.test\.js|[a-z/]+): [A-Za-z]' | grep -vE '^recovery\.ack' | grep -E '^[a-z-]+\.test\.js|: (Test|Fuzz|Example)' || true)

# | question | [file](../file) | `Type.method`, `function`; more that is elsewhere |
while IFS='|' read -r _ _ file functions _; do
  file=$(sed -E 's/^ *\[([^]]+)\].*/\1/' <<<"$file")
  while IFS= read -r function; do
    name=${function##*.} receiver="\([a-z]+ \*?${function%.*}\) "
    [ "$function" != "$name" ] || receiver=""
    grep -qsE "^func $receiver$name\(" "$file" || complain "docs/design.md: no $function in $file"
  done < <(cut -d';' -f1 <<<"$functions" | grep -oE '`[A-Za-z.]+`' | tr -d '`')
done < <(sed -n '/^## Where do I find/,/^## Packages/p' docs/design.md | grep -E '\| \[[a-z/_]+\.go\]')

# Methods of our types, wherever design.md names them
types='Server|client|link|sender|receiver|handshaker|reporter|conns|Session|Registry|Cursor|attempt|evictor|parkedLRU|sentLog|suspicions|Log|Socket|Conn|pollTransport|pollingLink|Upstream|Listener|acceptor|pendingConn|wsTransport|wsLink'
while IFS= read -r function; do
  grep -qsE "^func \([a-z]+ \*?${function%.*}\) ${function##*.}\(" {buffer,proxy,session,internal/{accept,engineio,upstream}}/*.go ||
    complain "docs/design.md: no $function"
done < <(grep -oE "\b($types)\.[A-Za-z]+" docs/design.md | grep -vE '\.(mu|input|pauseMu|go|test|IO)$' | sort -u)
for file in $(grep -oE '`[a-z_]+/[a-z_/]+\.go`' docs/design.md | tr -d '`'); do
  [ -e "$file" ] || complain "docs/design.md: no $file"
done

# proxy/doc.go names every file of the package.
for file in proxy/*.go; do
  case $file in *_test.go | proxy/doc.go) continue ;; esac
  grep -qw -- "${file##*/}" proxy/doc.go || complain "proxy/doc.go: no ${file##*/}"
done

# In these packages no type has methods in more than four files.
packages=(
  buffer
  internal/accept
  internal/engineio
  internal/netpoll
  internal/upstream
  proxy
  scripts/release
  session
  test/bench
)
for package in "${packages[@]}"; do
  while read -r files type; do
    [ "$files" -le 4 ] || complain "$package: $type has methods in $files files; four at the most"
  done < <(grep -HoE '^func \([a-z0-9]+ \*?[A-Za-z0-9]+' "$package"/*.go | grep -v _test.go | sed -E 's/^([^:]+):func \([a-z0-9]+ \*?/\1 /' | sort -u | awk '{ n[$2]++ } END { for (t in n) print n[t], t }')
done
exit $bad
