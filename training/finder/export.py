"""A trained finder becomes a part of a bundle: fold, export to ONNX, compare with torch, choose its score, and write.

python -m training.finder.export --checkpoint RUN/last.safetensors --bundle BUNDLE --validation FRAMES
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from metro_ros.core.bundle import Bundle, add_part, load_bundle
from metro_ros.core.errors import MetroError
from metro_ros.core.finder import PART, FinderConfig, open_finder
from metro_ros.core.finder_session import OUTPUT_NAMES
from training.backbone import BasicBlock
from training.datasets.frames import FrameSet
from training.finder.evaluate import Found, best_score, find_all
from training.finder.network import FinderNet, decode
from training.finder.train import load_finder
from training.onnx_graph import ExportError, to_onnx

MOST = 32
"""Boxes that the graph answers with."""
TOLERANCE_PX, TOLERANCE_SCORE = 0.1, 1e-3


class FinderGraph(nn.Module):
    """uint8 (N, H, W, 3) RGB -> boxes (N, MOST, 4), left, top, right, bottom, input px, and scores (N, MOST)."""

    def __init__(self, net: FinderNet) -> None:
        super().__init__()
        self.net = fold(net)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return decode(self.net(image), MOST)


def fold(net: FinderNet) -> FinderNet:
    """The same network, in eval mode, with every batch norm in the convolution before it."""
    net = copy.deepcopy(net).eval()
    for parent in list(net.modules()):
        if isinstance(parent, BasicBlock):
            for number in "12":
                conv, norm = getattr(parent, f"conv{number}"), getattr(parent, f"bn{number}")
                setattr(parent, f"conv{number}", fuse_conv_bn_eval(conv, norm))
                setattr(parent, f"bn{number}", nn.Identity())
        elif isinstance(parent, nn.Sequential):
            for index, (conv, norm) in enumerate(zip(list(parent), list(parent)[1:], strict=False)):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    parent[index], parent[index + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return net


def export_onnx(net: FinderNet) -> bytes:
    """The network and its decoding as a serialised ONNX model, N dynamic.

    Raises:
        ExportError: ONNX Runtime and torch, which runs the network as it was trained, disagree.
    """
    config = net.config
    model = to_onnx(FinderGraph(net), (config.height, config.width), OUTPUT_NAMES)
    check_against_torch(model, net, probe_images(config.width, config.height))
    return model


def check_against_torch(model: bytes, net: FinderNet, images: npt.NDArray[np.uint8]) -> None:
    """Run ONNX Runtime and the unfolded network on the same images, uint8 (N, H, W, 3), as one and then the rest.

    Raises ExportError unless they find the same.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for part in (images[:1], images[1:]):
        with torch.no_grad():
            boxes, scores = (value.numpy() for value in decode(net.eval()(torch.from_numpy(part)), MOST))
        got_boxes, got_scores = session.run(OUTPUT_NAMES, {"image": part})
        _compare("scores", got_scores, scores, TOLERANCE_SCORE)
        # Peaks that score the same may come in any order.
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


def calibrate(net: FinderNet, answers: Sequence[Found]) -> FinderNet:
    """The network with scores that are probabilities: how many of the boxes with such a score are right.

    Platt scaling (Platt, 1999): logit → a logit + b, folded into the last layer, so that the order of boxes, and which
    of them are peaks, stay as they are. With nothing to tell right from wrong the scores stay too.
    """
    scores = np.concatenate([one.scores for one in answers])
    right = np.concatenate([one.right for one in answers])
    counts = right >= 0
    logits = torch.logit(torch.from_numpy(scores[counts].astype(np.float64)), eps=1e-6)
    truth = torch.from_numpy((right[counts] == 1).astype(np.float64))
    if not 0 < truth.sum() < len(truth):
        return net
    scale = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([scale], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(scale[0] * logits + scale[1], truth)
        value.backward()
        return value

    optimiser.step(loss)
    slope, offset = scale.tolist()
    if not slope > 0:
        return net
    net = copy.deepcopy(net)
    assert net.head.bias is not None
    with torch.no_grad():
        net.head.weight[0] *= slope
        net.head.bias[0] = slope * net.head.bias[0] + offset
    return net


def add_finder(bundle: Bundle, net: FinderNet, validation: FrameSet) -> Bundle:
    """Put the network into the bundle, its scores calibrated on the validation frames, with the one that finds best
    there; the bundle then.

    Raises:
        ExportError: the exported model is not the network.
        BundleError: the bundle cannot be written.
    """
    config = net.config
    details = {"width": config.width, "height": config.height, "score": 0.0}

    def measure(network: FinderNet) -> tuple[bytes, list[Found]]:
        model = export_onnx(network)
        finder = open_finder(add_part(bundle, PART, model, details), threads=1, config=FinderConfig(min_score=0.02))
        assert finder is not None
        answers = find_all(finder, validation)
        finder.close()
        return model, answers

    model, answers = measure(calibrate(net, measure(net)[1]))
    score, figures = best_score(answers)
    return add_part(bundle, PART, model, {**details, "score": score, "validated": figures})


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.finder.export", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="file written by training.finder")
    parser.add_argument("--bundle", type=Path, required=True, help="bundle that the finder is added to")
    parser.add_argument("--validation", type=Path, required=True, help="frames to choose the score by")
    options = parser.parse_args(arguments)
    try:
        bundle = add_finder(load_bundle(options.bundle), load_finder(options.checkpoint), FrameSet(options.validation))
    except MetroError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{bundle.path}: {dict(bundle.manifest.parts[PART].details)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
