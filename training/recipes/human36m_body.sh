#!/usr/bin/env bash
# METRO's body on the Human3.6M mix, as in the paper: 200 epochs, 8 GPUs with 30 images each; killed, the same command
# goes on.
#
#   training/recipes/human36m_body.sh DATA [RUN_FOLDER]       the bundle is RUN_FOLDER/bundle
#   training/recipes/human36m_body.sh --smoke [RUN_FOLDER]    every step on made-up data, in less than a minute
#
# DATA holds, each under the terms that you got it on:
#   Tax-H36m-coco40k-Muco-UP-Mpii/train.yaml, human3.6m/valid.protocol2.yaml     METRO's TSV sets
#   models/basicModel_neutral_lbs_10_207_0_v1.0.0.pkl                            SMPL
#   models/mesh_downsampling.npz, models/J_regressor_h36m_correct.npy            from METRO or GraphCMR
#   models/hrnetv2_w64_imagenet_pretrained.pth                                   HRNet-W64, or timm's safetensors of it
set -euo pipefail
cd "$(dirname "$0")/../.."

hardware=(--devices "${DEVICES:-8}" --nodes "${NODES:-1}" --workers "${WORKERS:-8}")
if [ "${1:-}" = --smoke ]; then
  run=${2:-$(mktemp -d)} data=$run/fixtures
  python test/training/write_fixtures.py human36m "$data"
  hardware=(--tiny --epochs 1 --batch 4 --accelerator cpu)
else
  data=${1:?DATA or --smoke} run=${2:-runs/human36m_body}
fi
mesh=(--smpl "$data/models/basicModel_neutral_lbs_10_207_0_v1.0.0.pkl"
  --sampling "$data/models/mesh_downsampling.npz" --joint-regressor "$data/models/J_regressor_h36m_correct.npy")

python -m training.train --preset paper_body "${mesh[@]}" "${hardware[@]}" --resume --out "$run" \
  --data "tsv:$data/Tax-H36m-coco40k-Muco-UP-Mpii/train.yaml" \
  --validation "tsv:$data/human3.6m/valid.protocol2.yaml" \
  --imagenet "$data/models/hrnetv2_w64_imagenet_pretrained.pth"
python -m training.export --checkpoint "$run/best.safetensors" --output "$run/bundle"
python -m training.evaluate --bundle "$run/bundle" --protocol h36m --data "$data/human3.6m/valid.protocol2.yaml" \
  --json "$run/evaluation.json" --record human36m_p2
