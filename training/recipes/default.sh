#!/usr/bin/env bash
# The default model from a motion file and published networks, on two CPU cores in three hours; killed, the same command
# goes on.
#
#   training/recipes/default.sh MOTIONS.npz MODULES YOLOX.onnx [RUN_FOLDER]      the bundle is RUN_FOLDER/bundle
#   training/recipes/default.sh --smoke [RUN_FOLDER]      every step on a made-up body, in less than a minute
#
# POOL_WORKERS=N is for a machine with a GPU: N processes draw crops for as long as it trains, another N / 3 draw frames
# for the finder, which learns beside it, and no image is stored. POOL=400000 crops take 57 GB of the GPU. A step is one
# CUDA graph there; killed, this part begins anew.
#
# MODULES is mediapipe/modules of `pip download --no-deps mediapipe==0.10.21`; the wheel is a zip file. Its pose network
# and its pose detector have seen photographs, which no synthetic image makes up for. So has YOLOX.onnx, the yolox_nano.onnx
# of YOLOX's releases; PHOTOGRAPHS=DIR is a folder of images, labels or not, on which it shall forget nothing.
#
# PEOPLE=DIR is what training.photograph_labels wrote: where joints are in photographs and videos of people. They are
# learned last, beside crops that tell depths.
#
# FROM_BUNDLE=DIR begins with the weights of a bundle instead, e.g. metro_ros/models/default. The shipped tokens have
# learned for four and a half hours behind a smaller backbone before they were given this one; see docs/models/default.md.
set -euo pipefail
cd "$(dirname "$0")/../.."

unseen=02_09,01_04,03_02  # recordings to validate on; 02_05 is the demo's
excluded=02_05,$unseen workers=${POOL_WORKERS:-} pool=(--pool "${POOL:-400000}") frame_pool=(--batch 96) batch=256
processes=2 crops=64000 shard=500 validated=500 calibrated=2500 followed=2000 few=16000 clips=12 frames=120
painted=12000 finder=(--minutes "${FINDER_MINUTES:-40}")
first=(--minutes "${FIRST_MINUTES:-20}") all=(--minutes "${ALL_MINUTES:-80}") small=() cache=()
last=(--minutes "${LAST_MINUTES:-30}" --warm-up-steps 60)
if [ "${1:-}" = --smoke ]; then
  run=${2:-$(mktemp -d)}
  python test/training/write_fixtures.py default "$run/fixtures"
  motions=$run/fixtures/motions.npz modules=$run/fixtures cache=(--cache "$run/fixtures") thin=(--width 0.125)
  yolox=$run/fixtures/yolox_nano.onnx PHOTOGRAPHS=$run/fixtures/photographs PEOPLE=$run/fixtures/people
  unseen=02_01 excluded=02_01 crops=16 shard=8 validated=4 calibrated=8 followed=4 few=8 clips=1 frames=4 painted=8 finder=(--steps 2)
  first=(--steps 2) all=(--steps 2) last=(--steps 2) small=(--tiny --batch 4 --validate-every 1)
  pool=(--pool 16 --pool-wait 8) frame_pool=(--batch 4 --pool 8 --wait 4 --rooms 2) batch=4
else
  motions=${1:?MOTIONS.npz or --smoke} modules=${2:?MODULES} yolox=${3:?YOLOX.onnx} run=${4:-runs/default} thin=()
fi
pose=$modules/pose_landmark/pose_landmark_full.tflite detector=$modules/pose_detection/pose_detection.tflite

export OMP_NUM_THREADS=1  # one process a core beats one process with two threads as soon as anything else runs
# Maps of many megabytes come and go at every layer: given back to the system each time, a step takes a quarter longer.
export MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000
synth() { python -m training.synth --motions "$motions" "${cache[@]}" "$@"; }
data=(--data "shards:$run/crops") resume=(--resume)
train() { python -m training.train --motions "$motions" "${cache[@]}" "${data[@]}" "${resume[@]}" "${small[@]}" "$@"; }
finder+=(--start-from "$yolox" ${PHOTOGRAPHS:+--photographs "$PHOTOGRAPHS"})
finder() { python -m training.finder --out "$run/finder" "${finder[@]}" --resume "$@"; }

# 1. Crops: seen several times each, turned, scaled and recoloured anew.
synth --crops "$validated" --seed 3 --only "$unseen" --unseen-people --out "$run/validation"
if [ -n "$workers" ]; then
  processes=1 data=(--data "synth:$run/stream.json" --workers "$workers" "${pool[@]}" --graph) resume=()
  python - "$run/stream.json" "$motions" "$excluded" "${cache[1]:-}" <<'EOF'
import json, os, sys
path, motions, excluded, cache = sys.argv[1:]
fields = {"motions": os.path.abspath(motions), "exclude": excluded, "renderer": "opencv", "rooms": 150}
fields |= {"cache": os.path.abspath(cache), "rooms": 2} if cache else {}
os.makedirs(os.path.dirname(path), exist_ok=True)
json.dump(fields, open(path, "w"))
EOF
else
  for ((i = 0; i < processes; i++)); do
    synth --crops $((crops / processes)) --shard-size $shard --first-shard $((i * crops / processes / shard)) --seed 1 \
      --exclude "$excluded" --out "$run/crops" &
  done
  wait
fi

# 2. What bodies do, without an image; what is visible, MediaPipe's network knows. Or both from a bundle; on a GPU, bodies
# with all the rest.
start=(--mediapipe "$pose")
if [ -n "${FROM_BUNDLE:-}" ]; then
  python -m training.warm_start --bundle "$FROM_BUNDLE" --motions "$motions" "${cache[@]}" \
    --data "shards:$run/validation" --out "$run/start.safetensors"
  start=(--start-from "$run/start.safetensors")
elif [ -z "$workers" ]; then
  train --stage tokens --out "$run/tokens" "${first[@]}" --final-learning-rate 1e-4
  start+=(--tokens-from "$run/tokens/last.safetensors")
fi
# Edges are edges in any picture: the first stages stay as they are.
how=(--learning-rate 6e-4 --ema-decay 0.998) kept=(stem stages.0 stages.1)
if [ -n "$workers" ]; then how=(--learning-rate 1e-3 --warm-up-steps 500 --ema-decay 0.999) kept=(stem stages.0); fi
for part in "${kept[@]}"; do start+=(--freeze "backbone.trunk.$part."); done

# 3. METRO: all of it together, masked vertex modelling included.
if [ -n "$workers" ]; then
  small+=(--batch "$batch")
  finder --motions "$motions" --exclude "$excluded" "${cache[@]}" --workers $((workers / 3 + 1)) "${frame_pool[@]}" &
fi
if [ -z "$workers" ] || [ ! -e "$run/all/done" ]; then
  [ -z "$workers" ] || rm -rf "$run/all"
  train --stage all --out "$run/all" "${all[@]}" "${how[@]}" --devices "$processes" \
    --validation "shards:$run/validation" "${start[@]}" --backbone-rate 0.5 --edges 30 --normals 1
  touch "$run/all/done"
fi
wait

# 4. What people look like in photographs, whose depths nobody knows: the eyes stay, what is read from them learns.
trained=$run/all/last.safetensors
if [ -n "${PEOPLE:-}" ]; then
  beside=$run/crops
  if [ -n "$workers" ]; then
    beside=$run/few && synth --crops "$few" --seed 1 --exclude "$excluded" --out "$beside"
  fi
  data=(--data "shards:$beside" --data "coco:$PEOPLE/person_keypoints_photographs.json@0.67")
  kept=() resume=(--resume)
  for part in trunk. top reduce regression landmarks; do kept+=(--freeze "backbone.$part"); done
  [ -n "${small[*]}" ] || small=(--batch 32)
  train --stage all --out "$run/people" "${last[@]}" --learning-rate 1.5e-4 --final-learning-rate 1e-6 --ema-decay 0.995 \
    --devices "$processes" --validation "shards:$run/validation" --start-from "$trained" --edges 50 --normals 2 \
    "${kept[@]}" --freeze upsampling.
  trained=$run/people/last.safetensors
fi

# 5. What it says of its own joints, fitted to other crops that it was not trained on: any, and such as tracks give.
synth --crops "$calibrated" --seed 5 --only "$unseen" --unseen-people --out "$run/calibration"
synth --crops "$followed" --followed --seed 6 --only "$unseen" --unseen-people --out "$run/followed"
python -m training.calibrate --checkpoint "$trained" --data "shards:$run/calibration" \
  --data "shards:$run/followed" --out "$run/calibrated.safetensors"

# 6. Who is in a whole image: YOLOX's network, taught on painted frames, and MediaPipe's as it is.
frames() { python -m training.finder.frames --motions "$motions" "${cache[@]}" --shard-size "$shard" "$@"; }
frames --count $((painted / 20 + shard)) --seed 3 --only "$unseen" --unseen-people --out "$run/frames_validation"
if [ -z "$workers" ]; then
  frames --count "$painted" --seed 1 --exclude "$excluded" --out "$run/frames"
  finder --frames "$run/frames"
fi

# 7. The bundle, and in its manifest what it scores as it runs on a robot: frame after frame, by its own crops and ids.
python -m training.export --checkpoint "$run/calibrated.safetensors" --output "$run/bundle" \
  --info training/recipes/default.json --attention --compact
python -m training.finder.export --checkpoint "$run/finder/last.safetensors" --bundle "$run/bundle" \
  --validation "$run/frames_validation" --score 0.3  # whoever is unlikely is looked at all the same
python -m training.pose_detector --weights "$detector" --bundle "$run/bundle" "${thin[@]}"
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
