#!/usr/bin/env bash
# The hand model from nothing at all, on two CPU cores in an hour and a half; killed, the same command goes on.
#
#   training/recipes/hand.sh [RUN_FOLDER]             the bundle is RUN_FOLDER/bundle
#   training/recipes/hand.sh --smoke [RUN_FOLDER]     every step on a made-up hand, in less than a minute
set -euo pipefail
cd "$(dirname "$0")/../.."

processes=2 crops=40000 shard=500 validated=500 clips=12 frames=150
first=(--minutes "${FIRST_MINUTES:-12}") all=(--minutes "${ALL_MINUTES:-60}") small=() cache=()
if [ "${1:-}" = --smoke ]; then
  run=${2:-$(mktemp -d)}
  python test/training/write_fixtures.py hand "$run/fixtures"
  cache=(--cache "$run/fixtures") processes=1 crops=8 shard=8 validated=4 clips=1 frames=4
  first=(--steps 2) all=(--steps 2) small=(--tiny --batch 4 --validate-every 1)
else
  run=${1:-runs/hand}
fi

export OMP_NUM_THREADS=1  # one process a core beats one process with two threads as soon as anything else runs
synth() { python -m training.synth --subject hand "${cache[@]}" "$@"; }
train() {
  python -m training.train --preset hand --hand "${cache[@]}" --data "shards:$run/crops" --resume "${small[@]}" "$@"
}

# 1. Crops: seen several times each, turned, scaled and recoloured anew. The first command also keeps hands and mesh.
synth --crops "$validated" --seed 3 --unseen-people --out "$run/validation"
for ((i = 0; i < processes; i++)); do
  synth --crops $((crops / processes)) --shard-size $shard --first-shard $((i * crops / processes / shard)) --seed 1 \
    --out "$run/crops" &
done
wait

# 2. What is visible, and what hands do: neither needs the other, one core each.
train --stage backbone --out "$run/backbone" "${first[@]}" --final-learning-rate 1e-4 &
train --stage tokens --out "$run/tokens" "${first[@]}" --final-learning-rate 1e-4 &
wait

# 3. METRO: all of it together, masked vertex modelling included.
train --stage all --out "$run/all" "${all[@]}" --learning-rate 6e-4 --devices "$processes" \
  --validation "shards:$run/validation" \
  --backbone-from "$run/backbone/last.safetensors" --tokens-from "$run/tokens/last.safetensors"

# 4. The bundle, and in its manifest what it scores as it runs on a robot: frame after frame, by its own crops.
synth --clips "$clips" --frames "$frames" --seed 11 --out "$run/clips"
python -m training.export --checkpoint "$run/all/last.safetensors" --output "$run/bundle" \
  --info training/recipes/hand.json
python -m training.evaluate --bundle "$run/bundle" --data "$run/clips" --json "$run/evaluation.json" --record unseen_clips
