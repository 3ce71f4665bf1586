#!/usr/bin/env bash
# The hand model from nothing at all, on two CPU cores in an hour and a half; killed, the same command goes on.
#
#   training/recipes/hand.sh [RUN_FOLDER]             the bundle is RUN_FOLDER/bundle
#   training/recipes/hand.sh --smoke [RUN_FOLDER]     every step on a made-up hand, in less than a minute
#
# POOL_WORKERS=N is for a machine with a GPU: N processes draw crops for as long as it trains, and no image is stored. What
# ships was trained so, ALL_MINUTES=4 on an H100.
set -euo pipefail
cd "$(dirname "$0")/../.."

workers=${POOL_WORKERS:-} processes=2 crops=40000 shard=500 validated=500 calibrated=2000 clips=12 frames=120 rooms=150
first=(--minutes "${FIRST_MINUTES:-12}") all=(--minutes "${ALL_MINUTES:-60}") small=() cache=()
if [ "${1:-}" = --smoke ]; then
  run=${2:-$(mktemp -d)}
  python test/training/write_fixtures.py hand "$run/fixtures"
  cache=(--cache "$run/fixtures") processes=1 crops=8 shard=8 validated=4 calibrated=8 clips=1 frames=4 rooms=2
  first=(--steps 2) all=(--steps 2) small=(--tiny --batch 4 --validate-every 1) pool=(--pool 16 --pool-wait 8)
else
  run=${1:-runs/hand} pool=(--pool 180000 --batch 256)
fi

export OMP_NUM_THREADS=1  # one process a core beats one process with two threads as soon as anything else runs
synth() { python -m training.synth --subject hand "${cache[@]}" "$@"; }
train() { python -m training.train --preset hand --hand "${cache[@]}" "${small[@]}" "$@"; }

# 1. Crops: seen several times each, turned, scaled and recoloured anew. The first command also keeps hands and mesh.
synth --crops "$validated" --seed 3 --unseen-people --out "$run/validation"
if [ -z "$workers" ]; then
  for ((i = 0; i < processes; i++)); do
    synth --crops $((crops / processes)) --shard-size $shard --first-shard $((i * crops / processes / shard)) --seed 1 \
      --out "$run/crops" &
  done
  wait

  # 2. What is visible, and what hands do: neither needs the other, one core each.
  data=(--data "shards:$run/crops" --resume)
  train "${data[@]}" --stage backbone --out "$run/backbone" "${first[@]}" --final-learning-rate 1e-4 &
  train "${data[@]}" --stage tokens --out "$run/tokens" "${first[@]}" --final-learning-rate 1e-4 &
  wait
  how=(--learning-rate 6e-4 --devices "$processes")
  how+=(--backbone-from "$run/backbone/last.safetensors" --tokens-from "$run/tokens/last.safetensors")
else
  python -c "import json, sys; json.dump({'subject': 'hand', 'rooms': $rooms, **dict(zip(['cache'], sys.argv[1:]))}, sys.stdout)" \
    ${cache[1]:+"$(realpath "${cache[1]}")"} > "$run/stream.json"
  data=(--data "synth:$run/stream.json" --workers "$workers" "${pool[@]}" --graph)
  how=(--learning-rate 1.5e-3 --ema-decay 0.999 --edges 30 --normals 1)
fi

# 3. METRO: all of it together, masked vertex modelling included.
if [ -z "$workers" ] || [ ! -e "$run/all/done" ]; then
  [ -z "$workers" ] || rm -rf "$run/all"  # a graphed run begins anew
  train "${data[@]}" --stage all --out "$run/all" "${all[@]}" "${how[@]}" --validation "shards:$run/validation"
  touch "$run/all/done"
fi

# 4. What it says of its own joints, fitted to hands that it was not trained on.
synth --crops "$calibrated" --seed 5 --unseen-people --out "$run/calibration"
python -m training.calibrate --checkpoint "$run/all/last.safetensors" --data "shards:$run/calibration" \
  --threshold-mm 20 --out "$run/calibrated.safetensors"

# 5. The bundle, and in its manifest what it scores as it runs on a robot: frame after frame, by its own crops.
synth --clips "$clips" --frames "$frames" --seed 11 --out "$run/clips"
python -m training.export --checkpoint "$run/calibrated.safetensors" --output "$run/bundle" \
  --info training/recipes/hand.json --attention --compact
python -m training.evaluate --bundle "$run/bundle" --data "$run/clips" --json "$run/evaluation.json" --record unseen_clips
