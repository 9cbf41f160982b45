#!/usr/bin/env bash
# What launchers/hostfile.sh starts as each rank: the command in its only argument, NUL-separated words in base64.
set -euo pipefail
if (($# != 1)); then
    echo "usage: launchers/rank.sh COMMAND_IN_BASE64 (started by launchers/hostfile.sh)" >&2
    exit 2
fi
mapfile -d '' command < <(base64 --decode <<<"$1")
exec "${command[@]}"
