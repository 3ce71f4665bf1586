#!/usr/bin/env bash
# The default model from nothing but a motion file, on two CPU cores in three hours; killed, the same command goes on.
#
#   training/recipes/default.sh MOTIONS.npz [RUN_FOLDER]      the bundle is RUN_FOLDER/bundle
#   training/recipes/default.sh --smoke [RUN_FOLDER]          every step on a made-up body, in less than a minute
#
# FROM_BUNDLE=DIR begins with the weights of a bundle instead of nothing, e.g. metro_ros/models/default. That is how the
# shipped weights came about: twice, two hours on plainer scenes first, then ALL_MINUTES=85 on these.
set -euo pipefail
cd "$(dirname "$0")/../.."

unseen=02_09,01_04,03_02  # recordings to validate on; 02_05 is the demo's
excluded=02_05,$unseen processes=2 crops=80000 shard=500 validated=500 calibrated=4000 clips=12 frames=120
painted=10000 finder=(--minutes "${FINDER_MINUTES:-40}")
first=(--minutes "${FIRST_MINUTES:-12}") all=(--minutes "${ALL_MINUTES:-96}") small=() cache=()
if [ "${1:-}" = --smoke ]; then
  run=${2:-$(mktemp -d)}
  python test/training/write_fixtures.py default "$run/fixtures"
  motions=$run/fixtures/motions.npz cache=(--cache "$run/fixtures")
  unseen=02_01 excluded=02_01 crops=16 shard=8 validated=4 calibrated=8 clips=1 frames=4 painted=8 finder=(--steps 2 --batch 4)
  first=(--steps 2) all=(--steps 2) small=(--tiny --batch 4 --validate-every 1)
else
  motions=${1:?MOTIONS.npz or --smoke} run=${2:-runs/default}
fi

export OMP_NUM_THREADS=1  # one process a core beats one process with two threads as soon as anything else runs
synth() { python -m training.synth --motions "$motions" "${cache[@]}" "$@"; }
train() {
  python -m training.train --motions "$motions" "${cache[@]}" --data "shards:$run/crops" --resume "${small[@]}" "$@"
}

# 1. Crops: seen several times each, turned, scaled and recoloured anew.
synth --crops "$validated" --seed 3 --only "$unseen" --unseen-people --out "$run/validation"
for ((i = 0; i < processes; i++)); do
  synth --crops $((crops / processes)) --shard-size $shard --first-shard $((i * crops / processes / shard)) --seed 1 \
    --exclude "$excluded" --out "$run/crops" &
done
wait

# 2. What is visible, and what bodies do: neither needs the other, one core each. Or both from a bundle.
if [ -n "${FROM_BUNDLE:-}" ]; then
  python -m training.warm_start --bundle "$FROM_BUNDLE" --motions "$motions" "${cache[@]}" \
    --data "shards:$run/validation" --out "$run/start.safetensors"
  start=(--start-from "$run/start.safetensors" --learning-rate 5e-4)
else
  train --stage backbone --out "$run/backbone" "${first[@]}" --final-learning-rate 1e-4 &
  train --stage tokens --out "$run/tokens" "${first[@]}" --final-learning-rate 1e-4 &
  wait
  start=(--backbone-from "$run/backbone/last.safetensors" --tokens-from "$run/tokens/last.safetensors")
  start+=(--learning-rate 6e-4)
fi

# 3. METRO: all of it together, masked vertex modelling included.
train --stage all --out "$run/all" "${all[@]}" --ema-decay 0.998 --devices "$processes" \
  --validation "shards:$run/validation" "${start[@]}"

# 4. What it says of its own joints, fitted to other crops that it was not trained on.
synth --crops "$calibrated" --seed 5 --only "$unseen" --unseen-people --out "$run/calibration"
python -m training.calibrate --checkpoint "$run/all/last.safetensors" --data "shards:$run/calibration" \
  --out "$run/calibrated.safetensors"

# 5. Who is in a whole image: a network of its own, on frames of its own.
frames() { python -m training.finder.frames --motions "$motions" "${cache[@]}" --shard-size "$shard" "$@"; }
frames --count $((painted / 20 + shard)) --seed 3 --only "$unseen" --unseen-people --out "$run/frames_validation"
frames --count "$painted" --seed 1 --exclude "$excluded" --out "$run/frames"
python -m training.finder --frames "$run/frames" --out "$run/finder" "${finder[@]}" --resume

# 6. The bundle, and in its manifest what it scores as it runs on a robot: frame after frame, by its own crops and ids.
python -m training.export --checkpoint "$run/calibrated.safetensors" --output "$run/bundle" \
  --info training/recipes/default.json --attention
python -m training.finder.export --checkpoint "$run/finder/last.safetensors" --bundle "$run/bundle" \
  --validation "$run/frames_validation"
clips() { synth --frames "$frames" --only "$excluded" "$@"; }
measure() {
  python -m training.evaluate --bundle "$run/bundle" --data "$run/$1" --json "$run/$1.json" --record "$1" "${@:2}"
}
clips --clips "$clips" --seed 11 --out "$run/unseen_clips"
measure unseen_clips --reliability "$run/reliability.png"
if [ "$clips" -gt 1 ]; then
  clips --clips 8 --seed 12 --occluders 3 --out "$run/occluded_clips" && measure occluded_clips
  clips --clips 8 --seed 13 --people 3 --out "$run/three_people" && measure three_people
  clips --clips 20 --seed 14 --people 2 --crossing --out "$run/crossing" && measure crossing
fi
