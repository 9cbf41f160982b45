#!/usr/bin/env bash
# The demo: full chain of thought, every removal stage, none left; then No CoT for as many steps; one table of all three.
set -euo pipefail
cd "$(dirname "$0")/.."
seed=${1:-0} output=${2:-.}
data=$output/data/lock run=$output/runs/demo_seed$seed

# A lock with four states: of the digits, 7, 8 and 9 turn it by 1, 2 and 3, the others leave it as it is.
lock='[[0,0,0,0,0,0,0,1,2,3],[1,1,1,1,1,1,1,2,3,0],[2,2,2,2,2,2,2,3,0,1],[3,3,3,3,3,3,3,0,1,2]]'
tacit data automaton --machine table --transitions "$lock" --length 12 --num_train 100000 --output_dir "$data" --overwrite

mkdir -p "$run"
train=(tacit train --config recipes/demo.yaml --overwrite --run.seed "$seed"
    --data.train "$data/train.txt" --data.validation "$data/validation.txt")
"${train[@]}" --run.output_dir "$run" --json | tee "$run/result.json"
steps=$(python -c "import json, sys; print(json.load(open(sys.argv[1]))['num_steps'])" "$run/result.json")
"${train[@]}" --run.output_dir "${run}_no_cot" \
    --schedule.kind no_cot --schedule.max_steps "$steps" --run.keep_every null

echo
tacit evaluate --data "$data/test.txt" --num_timed 200 \
    --model "$run/stages/removed_0000" "$run/model" "${run}_no_cot/model"
echo "explicit CoT: end of stage 0; internalized: $run/model; No CoT: trained for the same $steps steps"
tacit frontier "$run" --data "$data/test.txt" --num_timed 100
tacit audit "$run" --data "$data/test.txt" --no_cot "${run}_no_cot"
tacit report "$run" "${run}_no_cot"
