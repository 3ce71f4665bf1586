#!/usr/bin/env bash
# METRO's body fine-tuned on 3DPW, as in the paper: five epochs from the Human3.6M checkpoint, 8 GPUs; killed, the same
# command goes on.
#
#   training/recipes/3dpw_finetune.sh DATA CHECKPOINT [RUN_FOLDER]    the bundle is RUN_FOLDER/bundle
#   training/recipes/3dpw_finetune.sh --smoke [RUN_FOLDER]            every step on made-up data, in less than a minute
#
# DATA holds, each under the terms that you got it on: 3DPW/ (imageFiles, sequenceFiles) and models/ with SMPL,
# mesh_downsampling.npz and J_regressor_h36m_correct.npy; CHECKPOINT is best.safetensors of human36m_body.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."

hardware=(--devices "${DEVICES:-8}" --nodes "${NODES:-1}" --workers "${WORKERS:-8}")
if [ "${1:-}" = --smoke ]; then
  run=${2:-$(mktemp -d)} data=$run/fixtures start=()
  python test/training/write_fixtures.py 3dpw "$data"
  hardware=(--tiny --epochs 1 --batch 4 --accelerator cpu)
else
  data=${1:?DATA and CHECKPOINT, or --smoke} start=(--start-from "${2:?CHECKPOINT}") run=${3:-runs/3dpw_finetune}
fi
mesh=(--smpl "$data/models/basicModel_neutral_lbs_10_207_0_v1.0.0.pkl"
  --sampling "$data/models/mesh_downsampling.npz" --joint-regressor "$data/models/J_regressor_h36m_correct.npy")

python -m training.train --preset paper_3dpw "${mesh[@]}" "${hardware[@]}" "${start[@]}" --resume --out "$run" \
  --data "3dpw:$data/3DPW" --validation "3dpw-validation:$data/3DPW"
python -m training.export --checkpoint "$run/best.safetensors" --output "$run/bundle"
python -m training.evaluate --bundle "$run/bundle" --protocol 3dpw --data "$data/3DPW" \
  --json "$run/evaluation.json" --record 3dpw_test \
  --mesh-model "$data/models/basicModel_neutral_lbs_10_207_0_v1.0.0.pkl" --regress-truth \
  --h36m-regressor "$data/models/J_regressor_h36m_correct.npy"
