#!/usr/bin/env bash
# One node or several, by torchrun. On several, start it on every one of them, with the same arguments.
set -euo pipefail
if (($# < 2)); then
    cat >&2 <<'USAGE'
usage: launchers/torchrun.sh RANKS_PER_NODE RECIPE [overrides]
Several nodes: set NNODES, and MASTER_ADDR (the first node's name), which all of them can reach at MASTER_PORT (29500).
NODE_RANK=0, 1, ... numbers the nodes, 0 being the first; without it they agree on an order among themselves.
USAGE
    exit 2
fi
ranks_per_node=$1 recipe=$2
shift 2
if ((${NNODES:-1} == 1)); then
    meet=(--standalone)
elif [[ -z ${MASTER_ADDR:-} ]]; then
    echo "torchrun.sh: MASTER_ADDR is not set; with NNODES=$NNODES it must name the first node" >&2
    exit 2
elif [[ -n ${NODE_RANK:-} ]]; then
    meet=(--nnodes "$NNODES" --node_rank "$NODE_RANK"
        --master_addr "$MASTER_ADDR" --master_port "${MASTER_PORT:-29500}")
else
    meet=(--nnodes "$NNODES" --rdzv_backend c10d --rdzv_id "${RDZV_ID:-tacit}"
        --rdzv_endpoint "$MASTER_ADDR:${MASTER_PORT:-29500}")
fi
exec torchrun "${meet[@]}" --nproc_per_node "$ranks_per_node" -m pipeline train --config "$recipe" "$@"
