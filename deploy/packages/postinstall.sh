#!/bin/sh
# deb calls it with "configure" and, for an upgrade, the version before; rpm with how many versions
# there will be.
set -e

upgrade=
case "$1" in
  configure) [ -z "$2" ] || upgrade=1 ;;
  [0-9]*) [ "$1" -lt 2 ] || upgrade=1 ;;
esac
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  [ -z "$upgrade" ] || systemctl try-restart holdfast.service
fi
if [ -z "$upgrade" ]; then
  echo "holdfast: set upstream.url in /etc/holdfast/holdfast.yaml, then run systemctl enable --now holdfast"
fi
