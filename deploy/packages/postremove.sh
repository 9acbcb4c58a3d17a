#!/bin/sh
set -e

if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
fi
# Files that others put there, such as certificates, stay.
if [ "$1" = purge ]; then
  rmdir /etc/holdfast 2>/dev/null || true
fi
