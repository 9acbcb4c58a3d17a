#!/usr/bin/env bash
# Checks that the files that documents link to exist, and the tests that guarantees.md names.
set -euo pipefail
cd "$(dirname "$0")/.."
bad=0
complain() {
  echo "$1" >&2
  bad=1
}

for doc in *.md docs/*.md docs/adr/*.md deploy/*.md; do
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
exit $bad
