#!/usr/bin/env bash
# The default model from nothing but a motion file, on two CPU cores in two hours; killed, the same command goes on.
#
#   training/recipes/default.sh MOTIONS.npz [RUN_FOLDER]      the bundle is RUN_FOLDER/bundle
#   training/recipes/default.sh --smoke [RUN_FOLDER]          every step on a made-up body, in less than a minute
set -euo pipefail
cd "$(dirname "$0")/../.."

unseen=02_09,01_04,03_02  # recordings to validate on; 02_05 is the demo's
excluded=02_05,$unseen processes=2 crops=80000 shard=500 validated=500 calibrated=4000 clips=12 frames=150
first=(--minutes "${FIRST_MINUTES:-12}") all=(--minutes "${ALL_MINUTES:-96}") small=() cache=()
if [ "${1:-}" = --smoke ]; then
  run=${2:-$(mktemp -d)}
  python test/training/write_fixtures.py default "$run/fixtures"
  motions=$run/fixtures/motions.npz cache=(--cache "$run/fixtures")
  unseen=02_01 excluded=02_01 crops=16 shard=8 validated=4 calibrated=8 clips=1 frames=4
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

# 2. What is visible, and what bodies do: neither needs the other, one core each.
train --stage backbone --out "$run/backbone" "${first[@]}" --final-learning-rate 1e-4 &
train --stage tokens --out "$run/tokens" "${first[@]}" --final-learning-rate 1e-4 &
wait

# 3. METRO: all of it together, masked vertex modelling included.
train --stage all --out "$run/all" "${all[@]}" --learning-rate 6e-4 --devices "$processes" \
  --validation "shards:$run/validation" \
  --backbone-from "$run/backbone/last.safetensors" --tokens-from "$run/tokens/last.safetensors"

# 4. What it says of its own joints, fitted to other crops that it was not trained on.
synth --crops "$calibrated" --seed 5 --only "$unseen" --unseen-people --out "$run/calibration"
python -m training.calibrate --checkpoint "$run/all/last.safetensors" --data "shards:$run/calibration" \
  --out "$run/calibrated.safetensors"

# 5. The bundle, and in its manifest what it scores as it runs on a robot: frame after frame, by its own crops.
synth --clips "$clips" --frames "$frames" --seed 11 --only "$excluded" --out "$run/clips"
python -m training.export --checkpoint "$run/calibrated.safetensors" --output "$run/bundle" \
  --info training/recipes/default.json --attention
python -m training.evaluate --bundle "$run/bundle" --data "$run/clips" --json "$run/evaluation.json" \
  --record unseen_clips --reliability "$run/reliability.png"
