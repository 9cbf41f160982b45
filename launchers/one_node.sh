#!/usr/bin/env bash
# One node: launchers/one_node.sh NUM_RANKS RECIPE [overrides]. A rank is a GPU, or a process where there is none.
set -euo pipefail
num_ranks=$1 recipe=$2
shift 2
exec deepspeed --num_gpus "$num_ranks" --no_local_rank --module pipeline train --config "$recipe" "$@"
