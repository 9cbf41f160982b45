#!/usr/bin/env bash
# Multiplication from scratch on two cores: the curriculum, then its controls trained for as many steps, then what each
# makes of unseen questions. Cut short, the same command goes on where it was.
#
#   launchers/multiplication.sh DIGITS [SEED [FOLDER [SETTING ...]]]
#
# DIGITS: 3x3 or 4x4. FOLDER: where data/ and runs/ go, this one if not given. SETTING: as `tacit train` takes them.
# PUBLISHED=FOLDER: where the paper's KxK_valid.txt and KxK_test.txt lie. Both are kept out of the training rows, and the
# latter is the test; otherwise test rows are drawn beside the training rows.
set -euo pipefail
cd "$(dirname "$0")/.."
digits=${1:?DIGITS, 3x3 or 4x4} seed=${2:-0} output=${3:-.}
settings=("${@:4}")
data=$output/data/multiplication_$digits run=$output/runs/multiplication_${digits}_seed$seed
recipe=recipes/multiplication_${digits}_cpu.yaml

test=$data/test.txt exclude=()
for name in valid test; do
    published=${PUBLISHED:-/nowhere}/${digits}_$name.txt
    [[ -f $published ]] || continue
    exclude+=(--exclude "$published")
    [[ $name != test ]] || test=$published
done

rows=808000 zeros=0.1 # as many as the paper's; without zeros most runs of 4x4 stand still, with many No CoT does not
[[ $digits != 3x3 ]] || rows=500000 zeros=0 # of which there are not so many questions
[[ -f $data/test.txt ]] ||
    tacit data multiplication --digits "$digits" --num_train $rows --zero_share $zeros --output_dir "$data" --overwrite \
        "${exclude[@]}"

launch=(tacit train --config)
[[ $digits == 3x3 ]] || launch=(launchers/one_node.sh 2) # two ranks of a thread are faster than two threads
train() {
    "${launch[@]}" "$recipe" --resume --run.seed "$seed" --data.train "$data/train.txt" \
        --data.validation "$data/validation.txt" "${settings[@]}" --run.output_dir "$@"
}
train "$run"
steps=$(tail -n 1 "$run/metrics.jsonl" | python -c "import json, sys; print(json.load(sys.stdin)['step'])")
for control in no_cot explicit_cot; do
    train "${run}_$control" --schedule.kind $control --schedule.max_steps "$steps" --run.keep_every null
done

echo
tacit evaluate --data "$test" --model "$run/model" "${run}_no_cot/model" "${run}_explicit_cot/model"
tacit frontier "$run" --data "$test"
tacit audit "$run" --data "$test" --no_cot "${run}_no_cot"
tacit report "$run" "${run}_no_cot" "${run}_explicit_cot"
