#!/usr/bin/env bash
# Installs the Debian packages that tests make use of, where they are missing and that is possible.
# Without them those tests are skipped, or say what they lack.
set -euo pipefail

packages=(
  python3-socketio python3-aiohttp python3-werkzeug # the Python servers of the end-to-end tests
  prometheus                                        # promtool checks metrics and rules; Prometheus scrapes
  nginx haproxy caddy                               # in front of holdfast, with the files of deploy/fronts
  systemd                                           # systemd-analyze, which checks deploy/systemd
  openssl                                           # certificates
  chromium                                          # the browser for tests of pages
)

command -v apt-get >/dev/null && command -v dpkg-query >/dev/null || exit 0

missing=()
for p in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
  echo "For all tests, install as root: apt-get install ${missing[*]}" >&2
  exit 0
fi

# No package is to start its daemon: Prometheus on port 9090, nginx on port 80.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi

echo "Installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if { apt-get -qq update && apt-get -qq install --yes --no-install-recommends "${missing[@]}"; } </dev/null >"$log" 2>&1; then
  rm -f "$log"
  exit 0
fi
cat "$log" >&2
rm -f "$log"
[ -z "${CI:-}" ] || exit 1
echo "Going on: the tests that need them are skipped." >&2
