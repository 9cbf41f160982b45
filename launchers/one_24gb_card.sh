#!/usr/bin/env bash
# One card of 24 GB, one process: QLoRA on a 7B model, or any recipe that fits.
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    echo "usage: launchers/one_24gb_card.sh [RECIPE] [overrides]"
    exit 0
fi
recipe=recipes/gsm8k_mistral_7b_qlora_24gb.yaml
if (($# > 0)) && [[ $1 != --* ]]; then
    recipe=$1
    shift
fi
# Batches differ in length, so memory comes back in odd sizes; blocks that can grow take it up again.
export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
exec python -m pipeline train --config "$recipe" "$@"
