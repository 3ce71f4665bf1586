"""A trained finder becomes a part of a bundle: round, export to ONNX, compare with torch, choose its score, and write.

python -m training.finder.export --checkpoint RUN/last.safetensors --bundle BUNDLE --validation FRAMES
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from metro_ros.core.bundle import Bundle, add_part, load_bundle
from metro_ros.core.errors import ConfigError, MetroError
from metro_ros.core.finder import PART, FinderConfig, open_finder
from metro_ros.core.finder_session import OUTPUT_NAMES
from training.datasets.frames import FrameSet
from training.finder.evaluate import Found, best_score, find_all, recall_precision
from training.finder.network import FinderNet, decode
from training.finder.train import load_finder
from training.onnx_graph import ExportError, pack_weights, to_onnx
from training.rounding import BITS, rounded_weights

MOST = 256
"""Boxes that the graph answers with; several of them are one person's."""
TOLERANCE_PX, TOLERANCE_SCORE = 0.1, 1e-3


class Calibration(NamedTuple):
    """What makes a score a probability: logit → slope x logit + offset."""

    slope: float = 1.0
    offset: float = 0.0


UNCALIBRATED = Calibration()


class FinderGraph(nn.Module):
    """uint8 (N, H, W, 3) RGB -> boxes (N, MOST, 4), left, top, right, bottom, input px, and scores (N, MOST)."""

    def __init__(self, net: FinderNet, calibration: Calibration) -> None:
        super().__init__()
        self.net = net
        for name, value in calibration._asdict().items():
            self.register_buffer(name, torch.tensor([value]))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = decode(self.net(image), MOST)
        return boxes, calibrated(scores, Calibration(self.slope, self.offset))  # type: ignore[arg-type]


def calibrated(scores: Tensor, calibration: Calibration) -> Tensor:
    """The probabilities that scores stand for."""
    return (calibration.slope * torch.logit(scores, eps=1e-6) + calibration.offset).sigmoid()


def export_onnx(net: FinderNet) -> bytes:
    """The network, rounded, and its decoding as a serialised ONNX model, N dynamic, its scores as they are.

    Raises:
        ExportError: ONNX Runtime and torch disagree.
    """
    config, net = net.config, copy.deepcopy(net).eval()
    graph = FinderGraph(net, UNCALIBRATED)
    model = pack_weights(to_onnx(graph, (config.height, config.width), OUTPUT_NAMES), BITS)
    with rounded_weights(net):
        check_against_torch(model, graph, probe_images(config.width, config.height))
    return model


def set_calibration(model: bytes, calibration: Calibration) -> bytes:
    """The same model with calibrated scores."""
    graph = onnx.load_from_string(model)
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    for name, value in calibration._asdict().items():
        constants[name].CopyFrom(numpy_helper.from_array(np.array([value], np.float32), name))
    return graph.SerializeToString()


def check_against_torch(model: bytes, graph: FinderGraph, images: npt.NDArray[np.uint8]) -> None:
    """Run ONNX Runtime and torch on the same images, uint8 (N, H, W, 3), as one and then the rest.

    Raises ExportError unless they find the same.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for part in (images[:1], images[1:]):
        with torch.no_grad():
            boxes, scores = (value.numpy() for value in graph.eval()(torch.from_numpy(part)))
        got_boxes, got_scores = session.run(OUTPUT_NAMES, {"image": part})
        _compare("scores", got_scores, scores, TOLERANCE_SCORE)
        # Cells that score the same may come in any order.
        apart = np.diff(scores, axis=1, prepend=2.0, append=-1.0) < -2 * TOLERANCE_SCORE
        alone = apart[:, :-1] & apart[:, 1:]
        _compare("boxes", got_boxes[alone], boxes[alone], TOLERANCE_PX)


def _compare(name: str, got: npt.NDArray, wanted: npt.NDArray, tolerance: float) -> None:
    largest = float(np.abs(got - wanted).max(initial=0.0))
    if not largest <= tolerance:  # NaN too
        raise ExportError(
            f"the finder's ONNX model disagrees with torch in {name}",
            expected=f"at most {tolerance:g}",
            got=f"{largest:g}",
        )


def probe_images(width: int, height: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """(4, height, width, 3) uint8 images that a wrong image path cannot answer alike: noise, a ramp, blobs."""
    random = np.random.default_rng(seed)
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    blobs = np.kron(random.integers(0, 256, (8, 8, 3)), np.ones((-(-height // 8), -(-width // 8), 1)))
    return np.stack(
        [
            random.integers(0, 256, (height, width, 3)),
            np.stack([across, down, 255 - across], axis=2),
            blobs[:height, :width],
            np.where(np.hypot(across - 99, down - 150)[..., None] < 60, (230, 150, 90), (20, 40, 30)),
        ]
    ).astype(np.uint8)


def calibrate(answers: Sequence[Found]) -> Calibration:
    """What makes scores probabilities: how many of the boxes with such a score are right (Platt scaling, Platt, 1999).

    The order of boxes stays as it is; with nothing to tell right from wrong, so do the scores.
    """
    scores = np.concatenate([one.scores for one in answers])
    right = np.concatenate([one.right for one in answers])
    counts = right >= 0
    logits = torch.logit(torch.from_numpy(scores[counts].astype(np.float64)), eps=1e-6)
    truth = torch.from_numpy((right[counts] == 1).astype(np.float64))
    if not 0 < truth.sum() < len(truth):
        return UNCALIBRATED
    scale = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([scale], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(scale[0] * logits + scale[1], truth)
        value.backward()
        return value

    optimiser.step(loss)
    slope, offset = scale.tolist()
    return Calibration(slope, offset) if slope > 0 else UNCALIBRATED


def add_finder(bundle: Bundle, net: FinderNet, validation: FrameSet, score: float | None = None) -> Bundle:
    """Put the network into the bundle, its scores calibrated on the validation frames; the bundle then.

    score: under which a box is nobody; None: the one that finds best there.

    Raises:
        ExportError: the exported model is not the network.
        BundleError: the bundle cannot be written.
    """
    details = {"width": net.config.width, "height": net.config.height, "score": 0.0}
    model = export_onnx(net)
    finder = open_finder(add_part(bundle, PART, model, details), threads=1, config=FinderConfig(min_score=0.02))
    assert finder is not None
    answers = find_all(finder, validation)
    finder.close()
    calibration = calibrate(answers)
    chosen, figures = choose(rescored(answers, calibration), score)
    model = set_calibration(model, calibration)
    return add_part(bundle, PART, model, {**details, "score": chosen, "validated": figures})


def rescored(answers: Sequence[Found], calibration: Calibration) -> list[Found]:
    """The same with calibrated scores; who was not found stays so."""

    def probabilities(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.where(scores > 0, calibrated(torch.from_numpy(scores), calibration).numpy(), scores)

    return [one._replace(scores=probabilities(one.scores), caught=probabilities(one.caught)) for one in answers]


def choose(answers: list[Found], score: float | None) -> tuple[float, dict[str, float]]:
    """The score, or the best if there is none, with recall and precision there."""
    return best_score(answers) if score is None else (score, recall_precision(answers, score))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.finder.export", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="file written by training.finder")
    parser.add_argument("--bundle", type=Path, required=True, help="bundle that the finder is added to")
    parser.add_argument("--validation", type=Path, required=True, help="frames to choose the score by")
    parser.add_argument("--score", type=float, help="under which a box is nobody (default: the best on those frames)")
    options = parser.parse_args(arguments)
    try:
        if options.score is not None and not 0 < options.score <= 1:
            raise ConfigError("score", expected="above 0 and up to 1", got=options.score)
        net = load_finder(options.checkpoint)
        bundle = add_finder(load_bundle(options.bundle), net, FrameSet(options.validation), options.score)
    except MetroError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{bundle.path}: {dict(bundle.manifest.parts[PART].details)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
