#!/usr/bin/env bash
# The default model from nothing but a motion file, on two CPU cores in two hours; killed, the same command goes on.
#
#   training/recipes/default.sh MOTIONS.npz [RUN_FOLDER]      the bundle is RUN_FOLDER/bundle
set -euo pipefail
motions=$1 run=${2:-runs/default}

unseen=02_09,01_04,03_02  # recordings to validate on; 02_05 is the demo's
processes=2 crops=80000 shard=500
first_minutes=${FIRST_MINUTES:-12} all_minutes=${ALL_MINUTES:-96}

export OMP_NUM_THREADS=1  # one process a core beats one process with two threads as soon as anything else runs
synth() { python -m training.synth --motions "$motions" "$@"; }
train() { "${launcher[@]}" -m training.train --motions "$motions" --shards "$run/crops" --resume "$@"; }

# 1. Crops: seen several times each, turned, scaled and recoloured anew.
synth --crops 500 --seed 3 --only "$unseen" --unseen-people --out "$run/validation"
for ((i = 0; i < processes; i++)); do
  synth --crops $((crops / processes)) --first-shard $((i * crops / processes / shard)) --seed 1 \
    --exclude "02_05,$unseen" --out "$run/crops" &
done
wait

# 2. What is visible, and what bodies do: neither needs the other, one core each.
launcher=(python)
train --stage backbone --out "$run/backbone" --minutes "$first_minutes" --final-learning-rate 1e-4 &
train --stage tokens --out "$run/tokens" --minutes "$first_minutes" --final-learning-rate 1e-4 &
wait

# 3. METRO: all of it together, masked vertex modelling included.
launcher=(torchrun --standalone --nproc-per-node "$processes")
train --stage all --out "$run/all" --minutes "$all_minutes" --learning-rate 6e-4 --validation "$run/validation" \
  --backbone-from "$run/backbone/last.pt" --tokens-from "$run/tokens/last.pt"

# 4. The bundle, and in its manifest what it scores as it runs on a robot: frame after frame, by its own crops.
synth --clips 12 --frames 150 --seed 11 --only "02_05,$unseen" --out "$run/clips"
export_bundle=(python -m training.export --checkpoint "$run/all/last.pt" --output "$run/bundle"
  --info "$(dirname "$0")/default.json")
"${export_bundle[@]}"
python -m training.evaluate --bundle "$run/bundle" --data "$run/clips" --json "$run/evaluation.json"
"${export_bundle[@]}" --measured unseen_clips "$run/evaluation.json"
