#!/usr/bin/env bash
# SmolLM2-135M on GSM8K's own training rows: the curriculum, then No CoT on as many rows, then the first 200 test rows
# asked of every kept stage and of both models. Cut short, the same command goes on where it was.
#
#   launchers/gsm8k_smollm2.sh RECIPE [SEED [FOLDER [SETTING ...]]]
#
# RECIPE: recipes/gsm8k_smollm2.yaml for a GPU, recipes/gsm8k_smollm2_cpu.yaml for two cores. Wants
# models/smollm2-135m-instruct and data/gsm8k (`make reproduce-gsm8k-smollm2` makes both). FOLDER: where runs/ goes, this
# one if not given. SETTING: as `tacit train` takes them.
set -euo pipefail
cd "$(dirname "$0")/.."
recipe=${1:?"name a recipe, such as recipes/gsm8k_smollm2.yaml"} seed=${2:-0} output=${3:-.}
settings=(--config "$recipe" --run.seed "$seed" "${@:4}")
run=$output/runs/gsm8k_smollm2_seed$seed
test=$output/runs/gsm8k_test_200.txt
steps=$(tacit plan "${settings[@]}" --json | python -c "import json, sys; print(json.load(sys.stdin)['fastest']['steps'])")

tacit train "${settings[@]}" --resume --run.output_dir "$run"
tacit train "${settings[@]}" --resume --run.output_dir "${run}_no_cot" \
    --schedule.kind no_cot --schedule.max_steps "$steps" --run.keep_every null

echo
head -n 200 data/gsm8k/test.txt > "$test"
tacit evaluate --data "$test" --model "$run/model" "${run}_no_cot/model"
tacit frontier "$run" --data "$test"
tacit audit "$run" --data "$test" --no_cot "${run}_no_cot"
tacit report "$run" "${run}_no_cot"
