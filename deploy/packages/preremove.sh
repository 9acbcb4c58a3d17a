#!/bin/sh
# deb calls it with "remove" or "upgrade"; rpm with how many versions will be left. The user that
# the service runs as is a dynamic one, which ends with it.
set -e

case "$1" in
  remove | 0) ;;
  *) exit 0 ;;
esac
command -v systemctl >/dev/null || exit 0
if [ -d /run/systemd/system ]; then
  systemctl disable --now holdfast.service || true
else
  systemctl --quiet disable holdfast.service || true
fi
