"""Fit what a trained network says of its own joints: the probability that each is within 50 mm of the truth.

python -m training.calibrate --checkpoint CKPT --data KIND:PATH ... --out CKPT

Only the ReliabilityHead is fitted (training.reliability), by logistic regression on crops of motions and people that
the network was not trained on: on those that it was, it errs less. Crops do better than clips here, although a
bundle meets clips: a recording's frames are much alike, and what is learned from a few says little of others. What it
is checked with is --check, or else every fourth crop, which is then not fitted on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from metro_ros.core.calibration import MM_PER_M, THRESHOLD_MM, Judged, Reliability, reliability
from metro_ros.core.errors import MetroError, SourceError
from training.build import build
from training.checkpoint import load_checkpoint, save_checkpoint
from training.datasets.augment import NONE
from training.datasets.catalogue import open_source
from training.datasets.mixture import Batch, Mixture
from training.mesh_spec import MeshSpec
from training.network import Metro, MetroOutput
from training.network_config import MetroConfig
from training.normalize import Normalize
from training.presets import PRESETS
from training.reliability import ReliabilityHead, gather_clues

BATCH = 32
CHECK_EVERY = 4
"""One crop in so many is not fitted on."""
PENALTY = 0.02
"""Of the squared weights of one joint, for clues of variance 1; from 0.01 to 0.1, ECE on unseen motions is the same."""
STEPS = 200
"""Of L-BFGS, at most; 60 are usual."""
IN_SIGHT = 0.1
"""A joint is, whose place is covered by so much of the person's silhouette: half a wrist fills no cell."""
HEAD = "reliability_head."
"""The beginning of the names of what is fitted."""


class Answers(NamedTuple):
    """What a network said of N crops, and how far off it was.

    Attributes:
        clues: (N, G), see `reliability.gather_clues`.
        visibility: (N, J) in 0..1.
        error_mm: (N, J) from the truth, both root-relative; NaN where that is unknown.
        covered: (N, J) how much of the joint's place in the picture the person's silhouette covers, in 0..1: nothing
            where another thing is in front of it, or where it is outside; NaN where that is unknown.
    """

    clues: Tensor
    visibility: Tensor
    error_mm: Tensor
    covered: Tensor

    def rows(self, chosen: Tensor) -> Answers:
        """Those of some crops."""
        return Answers(*(part[chosen] for part in self))


def with_reliability(metro: Metro, config: MetroConfig, threshold_mm: float) -> tuple[Metro, MetroConfig]:
    """The same network with a new ReliabilityHead, and its config. Raises ConfigError for one without keypoints."""
    config = replace(config, reliability_mm=threshold_mm)
    new = build(config, metro.mesh)
    weights = {name: value for name, value in metro.state_dict().items() if not name.startswith(HEAD)}
    missing, _ = new.load_state_dict(weights, strict=False)
    assert all(name.startswith(HEAD) for name in missing)
    return new.eval(), config


@torch.no_grad()
def answer(metro: Metro, batches: Sequence[Batch]) -> Answers:
    """Run a network in eval mode with keypoints over batches of crops."""
    normalize, parts = Normalize(), []
    for batch in tqdm(batches, desc="answers", unit="batch", leave=False):
        parts.append(_answer(metro, batch, normalize(batch.image)))
    return Answers(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _answer(metro: Metro, batch: Batch, images: Tensor) -> Answers:
    output: MetroOutput = metro(images, levels=1)
    assert output.keypoints is not None and output.confidence is not None
    root = list(metro.mesh.root_joints)
    ours, theirs = (points - points[:, root].mean(dim=1, keepdim=True) for points in (output.joints, batch.joints))
    known = (batch.joint_confidence > 0) & (batch.joint_confidence[:, root] > 0).all(dim=1, keepdim=True)
    error_mm = torch.where(known, MM_PER_M * (ours - theirs).norm(dim=2), torch.nan)
    clues = gather_clues(
        output.heatmaps, output.mask, output.keypoints, output.confidence, output.joints, output.camera
    )
    return Answers(clues, output.confidence.sigmoid(), error_mm, _covered(batch))


def _covered(batch: Batch) -> Tensor:
    if batch.mask is None:
        return torch.full(batch.keypoint_confidence.shape, torch.nan)
    # Cells and crop coordinates agree as pixels' areas do in grid_sample without aligned corners.
    places = batch.keypoints[:, :, None]
    share = F.grid_sample(batch.mask[:, None], places, align_corners=False)[:, 0, :, 0]
    share = torch.where(batch.keypoint_confidence > 0, share, 0.0)
    return torch.where(batch.has_dense[:, None] > 0, share, torch.nan)


def fit(head: ReliabilityHead, answers: Answers, threshold_mm: float) -> None:
    """Set the head's weights to those of least cross-entropy on the joints that are known, with a penalty.

    The clues are brought to mean 0 and variance 1 for it, which the weights then undo. Raises SourceError when fewer
    crops than two have a joint that is known.
    """
    known = ~answers.error_mm.isnan()
    if int(known.any(dim=1).sum()) < 2:
        raise SourceError("crops to fit on", expected="two or more with known joints", got=int(known.any(dim=1).sum()))
    deviation, mean = torch.std_mean(answers.clues.double(), dim=0)
    deviation = deviation.clamp(min=1e-3)
    clues, right = (answers.clues.double() - mean) / deviation, (answers.error_mm < threshold_mm).double()
    weights = known.double() / known.sum()
    linear = nn.Linear(head.judge.in_features, head.judge.out_features, dtype=torch.float64)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimiser = torch.optim.LBFGS(linear.parameters(), max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        entropy = F.binary_cross_entropy_with_logits(linear(clues), right, weights, reduction="sum")
        total = entropy + PENALTY * linear.weight.square().sum() / len(linear.weight)
        total.backward()
        return total

    optimiser.step(loss)
    with torch.no_grad():
        weight = linear.weight / deviation
        head.judge.weight.copy_(weight)
        head.judge.bias.copy_(linear.bias - weight @ mean)


def measure(confidence: Tensor, answers: Answers, threshold_mm: float, among: Tensor | None = None) -> Reliability:
    """Reliability of confidences (N, J), over the joints that are known, `among` (N, J) or (J,) or all.

    Raises SourceError without any.
    """
    chosen = ~answers.error_mm.isnan() if among is None else ~answers.error_mm.isnan() & among
    return reliability(Judged(confidence[chosen].numpy(), (answers.error_mm[chosen] < threshold_mm).numpy()))


@torch.no_grad()
def report(head: ReliabilityHead, answers: Answers, names: Sequence[str], threshold_mm: float) -> str:
    """A table of each joint, of those in sight and not, and of all: the share that is right, mean confidence, and the
    calibration error after and before, which means with visibility taken for confidence."""
    after = head(answers.clues).sigmoid()
    lines = [f"{'joint':<14}{'within':>8}{'says':>8}{'ECE':>8}{'before':>8}"]
    rows = {name: torch.arange(len(names)) == joint for joint, name in enumerate(names)}
    rows |= {"in sight": answers.covered >= IN_SIGHT, "hidden": answers.covered < IN_SIGHT}
    rows["all joints"] = torch.ones(len(names), dtype=torch.bool)
    for name, among in rows.items():
        if not (among & ~answers.error_mm.isnan()).any():
            continue
        one = measure(after, answers, threshold_mm, among)
        before = measure(answers.visibility, answers, threshold_mm, among).ece
        lines.append(f"{name:<14}{one.share_right:>8.3f}{one.mean_confidence:>8.3f}{one.ece:>8.3f}{before:>8.3f}")
    return "\n".join(lines)


def calibrate(
    metro: Metro,
    config: MetroConfig,
    batches: Sequence[Batch],
    check: Sequence[Batch] | None = None,
    threshold_mm: float = THRESHOLD_MM,
) -> tuple[Metro, MetroConfig, str]:
    """The network with a fitted head, all else as it was; its config; and a report on `check`.

    check: None for every fourth crop of `batches`, which is then not fitted on.

    Raises ConfigError for a network without keypoints, SourceError when too little is known of the crops.
    """
    metro, config = with_reliability(metro, config, threshold_mm)
    answers = answer(metro, batches)
    if check is not None:
        held_out = answer(metro, check)
    else:
        chosen = torch.arange(len(answers.clues)) % CHECK_EVERY == CHECK_EVERY - 1
        answers, held_out = answers.rows(~chosen), answers.rows(chosen)
    assert metro.reliability_head is not None
    fit(metro.reliability_head, answers, threshold_mm)
    return metro, config, report(metro.reliability_head, held_out, metro.mesh.joint_names, threshold_mm)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.calibrate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="of a network with keypoints, such as `default`")
    parser.add_argument(
        "--data", action="append", required=True, metavar="KIND:PATH", help="crops that it was not trained on"
    )
    parser.add_argument("--check", action="append", metavar="KIND:PATH", help="others, that the report is about")
    parser.add_argument("--threshold-mm", type=float, default=THRESHOLD_MM, help="what is right (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint that exports with it")
    options = parser.parse_args(arguments)
    try:
        metro, config, fields = load_checkpoint(options.checkpoint)
        batches = _Batches(options.data, metro.mesh, config.image_size)
        check = _Batches(options.check, metro.mesh, config.image_size) if options.check else None
        metro, config, told = calibrate(metro, config, batches, check, options.threshold_mm)
        save_checkpoint(options.out, metro, config, fields)
    except MetroError as error:
        print(f"calibrate: {error}", file=sys.stderr)
        return 2
    print(told)
    return 0


class _Batches(Sequence[Batch]):
    """Datasets one after the other, in batches that are read when asked for. Raises as `Mixture` does."""

    def __init__(self, datasets: Sequence[str], mesh: MeshSpec, size: int) -> None:
        sources = [open_source(text, mesh) for text in datasets]
        self.mixture = Mixture(sources, mesh, NONE, PRESETS["default"]().crop_style, size, in_turn=True)

    def __len__(self) -> int:
        return -(-len(self.mixture) // BATCH)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        rows = range(index * BATCH, min((index + 1) * BATCH, len(self.mixture)))
        return self.mixture.collate([self.mixture[row] for row in rows])


if __name__ == "__main__":
    sys.exit(main())
