#!/usr/bin/env bash
# One node, by DeepSpeed's launcher. A rank is a GPU, or a process where there is none.
# A second run on the node needs another MASTER_PORT (29500).
# TERM, INT (Ctrl-C) and USR1 reach the ranks: they save and exit with 75. With --resume the run goes on.
set -euo pipefail
if (($# < 2)); then
    echo "usage: launchers/one_node.sh NUM_RANKS RECIPE [overrides]" >&2
    exit 2
fi
num_ranks=$1 recipe=$2
shift 2
exec python launchers/forward_signals.py \
    deepspeed --num_gpus "$num_ranks" --master_port "${MASTER_PORT:-29500}" --no_local_rank \
    --module pipeline train --config "$recipe" "$@"
