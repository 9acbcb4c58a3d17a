#!/usr/bin/env bash
# Installs missing Debian packages that tests use, if it runs as root on Debian. Tests whose
# packages are missing are skipped.
set -euo pipefail

packages=(
  python3-socketio python3-aiohttp python3-werkzeug # the Python servers of the end-to-end tests
  python3-requests python3-websocket                # python-socketio's client on threads
  prometheus                                        # promtool checks metrics and rules; Prometheus scrapes
  redis-server                                      # the adapter of several Socket.IO servers
  nginx haproxy caddy                               # in front of holdfast, configured by deploy/fronts
  systemd                                           # systemd-analyze checks deploy/systemd
  zsh fish                                          # shells that take completions
  rpm                                               # reads the rpm package
  openssl                                           # certificates
  chromium                                          # the browser for page tests
)

command -v apt-get >/dev/null && command -v dpkg-query >/dev/null || exit 0

missing=()
for p in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
  echo "To run all tests, install as root: apt-get install ${missing[*]}" >&2
  exit 0
fi

# Keep packages from starting their daemons, such as Prometheus on port 9090 and nginx on port 80.
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
echo "Continuing: tests that need these packages will be skipped." >&2
