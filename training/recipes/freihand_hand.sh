#!/usr/bin/env bash
# METRO's hand on FreiHAND, as in the paper: 200 epochs, 8 GPUs with 32 images each; killed, the same command goes on.
#
#   training/recipes/freihand_hand.sh DATA [RUN_FOLDER]       the bundle is RUN_FOLDER/bundle
#   training/recipes/freihand_hand.sh --smoke [RUN_FOLDER]    every step on made-up data, in less than a minute
#
# DATA holds, each under the terms that you got it on: FreiHAND_pub_v2/ as published, and models/ with MANO_RIGHT.pkl,
# mano_downsampling.npz and hrnetv2_w64_imagenet_pretrained.pth. pred.zip in the run folder is what the server takes.
set -euo pipefail
cd "$(dirname "$0")/../.."

hardware=(--devices "${DEVICES:-8}" --nodes "${NODES:-1}" --workers "${WORKERS:-8}") augmented=(--tta)
if [ "${1:-}" = --smoke ]; then
  run=${2:-$(mktemp -d)} data=$run/fixtures
  python test/training/write_fixtures.py freihand "$data"
  hardware=(--tiny --epochs 1 --batch 4 --accelerator cpu)
else
  data=${1:?DATA or --smoke} run=${2:-runs/freihand_hand}
fi
mesh=(--mano "$data/models/MANO_RIGHT.pkl" --sampling "$data/models/mano_downsampling.npz")

# The paper keeps its last weights: there is nothing to validate on but the test set.
python -m training.train --preset paper_hand "${mesh[@]}" "${hardware[@]}" --resume --out "$run" \
  --data "freihand:$data/FreiHAND_pub_v2" --imagenet "$data/models/hrnetv2_w64_imagenet_pretrained.pth"
python -m training.export --checkpoint "$run/last.safetensors" --output "$run/bundle"
python -m training.evaluate --bundle "$run/bundle" --protocol freihand --data "$data/FreiHAND_pub_v2" \
  --json "$run/evaluation.json" --record freihand_evaluation --submission "$run/pred.json" "${augmented[@]}"
