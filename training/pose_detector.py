"""MediaPipe's pose detector (Bazarevsky et al., 2020; Apache-2.0), which finds people in photographs, for a bundle.

python -m training.pose_detector --weights pose_detection.tflite --bundle BUNDLE

`pip download --no-deps mediapipe==0.10.21`; the wheel, a zip file, holds mediapipe/modules/pose_detection/. Weights and
answers are those of the file, nothing is trained: a trunk of BlazePose's blocks, a top-down path, and at three strides,
for a few anchors in each cell, whether a head is there, and from which its hips, and a circle around the body, are. It
was made to see one person, whoever is most prominent.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metro_ros.core.bundle import add_part, load_bundle
from metro_ros.core.errors import ConfigError, MetroError
from metro_ros.core.prominent import OUTPUT_NAMES, PART
from training.blazepose import InvertedResidual, Stages, Trunk, convolution, initialise, relu6, scaled
from training.onnx_graph import ExportError, halve_weights, to_onnx
from training.tflite_weights import read_convolutions, set_convolution

_STAGES: Stages = (
    ((24, 64, 3, 2), (24, 144, 3, 1)),
    ((40, 144, 5, 2), (40, 240, 5, 1)),
    (
        (80, 240, 3, 2), (80, 480, 3, 1), (80, 480, 3, 1), (112, 480, 5, 1), (112, 672, 5, 1), (112, 672, 5, 1)
    ),
    ((192, 672, 5, 2), (192, 1152, 5, 1), (192, 1152, 5, 1), (192, 1152, 5, 1)),
)  # fmt: skip
"""They end at strides 4, 8, 16 and 32."""
_TOP, _MIDDLE, _FINE = 1152, 192, 96
"""Channels of the maps at stride 32, 16 and 8."""
SIZE = 224
"""Side of the images that it was made for, px."""
_ANCHORS = (2, 2, 6)
"""In each cell of the maps at stride 8, 16 and 32."""
_NUMBERS = 12
"""Of an anchor: the head's box (x, y, width, height), the middle of the hips, a point of the circle around the body
whose centre they are, the middle of the shoulders, and one of the circle around the upper body (x, y each)."""
MOST = 8
"""Anchors that the graph answers with; several of them are one person's."""
SLENDERNESS = 0.4
"""Half the width of a body over half its length, for a box from the circle: the best on synthetic people."""
MIN_SCORE = 0.5
"""MediaPipe's own."""
TOLERANCE_PX, TOLERANCE_SCORE = 0.1, 1e-3


class People(NamedTuple):
    """K of each of N images: boxes (N, K, 4), left, top, right, bottom, scores (N, K) and heads (N, K, 2), px."""

    boxes: Tensor
    scores: Tensor
    heads: Tensor


class Mixed(nn.Module):
    """Look around channel by channel, then mix channels; nothing between."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.depthwise = convolution(in_channels, in_channels, 3, groups=in_channels)
        self.pointwise = convolution(in_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.pointwise(self.depthwise(x))
        return mixed


class Finer(nn.Module):
    """A coarse map, enlarged and narrowed, and a fine one beside it, mixed twice."""

    def __init__(self, coarse: int, fine: int, channels: int) -> None:
        super().__init__()
        self.narrow = convolution(coarse, channels)
        self.lateral = Mixed(fine, channels)
        self.blocks = nn.ModuleList([Mixed(channels, channels), Mixed(channels, channels)])

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        # Narrowed first, which is the same and a quarter of the work.
        above = F.interpolate(self.narrow(coarse), scale_factor=2.0, mode="bilinear")
        x = relu6(self.lateral(fine)) + relu6(above)
        for block in self.blocks:
            x = relu6(x + block(x))
        return x


class Anchors(nn.Module):
    """A map -> of each anchor in each cell, whether a head is there (a logit), and where all else is.

    Channels become a map twice as fine first, of which every other cell is looked at.
    """

    def __init__(self, channels: int, anchors: int) -> None:
        super().__init__()
        fine = channels // 4
        self.score, self.place = (
            nn.ModuleList([convolution(fine, fine, 3, 2, groups=fine), convolution(fine, numbers)])
            for numbers in (anchors, anchors * _NUMBERS)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> (N, H * W * anchors) and (N, H * W * anchors, 12), px from the cell's centre."""
        finer = depth_to_space(x)
        score, place = (
            mix(look(finer)).permute(0, 2, 3, 1).flatten(1) for look, mix in (tuple(self.score), tuple(self.place))
        )
        return score, place.view(x.shape[0], -1, _NUMBERS)


def depth_to_space(x: Tensor) -> Tensor:
    """TensorFlow's: (N, 4C, H, W) -> (N, C, 2H, 2W), which of the four before which channel."""
    count, channels, height, width = x.shape
    finer = x.view(count, 2, 2, channels // 4, height, width).permute(0, 3, 4, 1, 5, 2)
    return finer.reshape(count, channels // 4, 2 * height, 2 * width)


class PoseDetector(nn.Module):
    """(N, H, W, 3) uint8 RGB, sides multiples of 32 -> scores (N, A) of all anchors, what they say (N, A, 12), px."""

    def __init__(self, width: float = 1.0) -> None:
        """width: of all layers; published weights fit 1."""
        super().__init__()
        self.trunk = Trunk(width, _STAGES)
        _, fine, middle, out = self.trunk.channels
        top, narrow, narrower = (scaled(channels, width) for channels in (_TOP, _MIDDLE, _FINE))
        self.top = nn.ModuleList([convolution(out, top), convolution(top, top, 3, groups=top)])
        self.middle, self.fine = Finer(top, middle, narrow), Finer(narrow, fine, narrower)
        self.anchors = nn.ModuleList(
            Anchors(channels, count) for channels, count in zip((narrower, narrow, top), _ANCHORS, strict=True)
        )
        initialise(self)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        _, second, third, last = self.trunk((image.float() / 127.5 - 1).permute(0, 3, 1, 2))
        widen, look = self.top
        top = relu6(look(relu6(widen(last))))
        middle = self.middle(top, third)
        maps = self.fine(middle, second), middle, top
        scores, places = [], []
        for anchors, one, stride, count in zip(self.anchors, maps, (8, 16, 32), _ANCHORS, strict=True):
            score, place = anchors(one)
            scores.append(score)
            cells = _cells(one.shape[2], one.shape[3], stride, count)
            size = place[..., 2:4]
            moved = (place.view(*place.shape[:2], 6, 2) + cells[:, None]).flatten(2)
            places.append(torch.cat([moved[..., :2], size, moved[..., 4:]], dim=2))
        return torch.cat(scores, dim=1).sigmoid(), torch.cat(places, dim=1)


def _cells(height: int, width: int, stride: int, count: int) -> Tensor:
    """Centres of cells, `count` times each, (height * width * count, 2), x and y, px."""
    down, across = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centres = (torch.stack([across, down], dim=2).float() + 0.5) * stride
    return centres.view(-1, 1, 2).expand(-1, count, 2).reshape(-1, 2)


def _body_boxes(place: Tensor) -> Tensor:
    """Boxes around ellipses, along the spine and as long as the circle around the body; place (N, A, 12)."""
    hips, rim, shoulders = place[..., 4:6], place[..., 6:8], place[..., 8:10]
    radius = (rim - hips).norm(dim=-1, keepdim=True)
    along = F.normalize(shoulders - hips, dim=-1)
    across = along.flip(-1)
    half = radius * torch.sqrt(along.square() + (SLENDERNESS * across).square())
    return torch.cat([hips - half, hips + half], dim=-1)


def file_order(detector: PoseDetector) -> list[nn.Conv2d]:
    """Its convolutions as pose_detection.tflite has them: a lateral behind the first one of the next stage."""
    order = [cast(nn.Conv2d, module) for module in detector.trunk.stem]
    laterals = {2: detector.fine.lateral, 3: detector.middle.lateral}
    for index, stage in enumerate(detector.trunk.stages):
        for number, block in enumerate(cast(nn.Sequential, stage)):
            assert isinstance(block, InvertedResidual)
            order.append(block.expand)
            if number == 0 and index in laterals:
                order += [laterals[index].depthwise, laterals[index].pointwise]
            order += [block.depthwise, block.project]
    order += [cast(nn.Conv2d, module) for module in detector.top]
    for finer in (detector.middle, detector.fine):
        order.append(finer.narrow)
        for mixed in finer.blocks:
            assert isinstance(mixed, Mixed)
            order += [mixed.depthwise, mixed.pointwise]
    for anchors in detector.anchors:
        assert isinstance(anchors, Anchors)
        order += [cast(nn.Conv2d, module) for module in (*anchors.score, *anchors.place)]
    return order


@torch.no_grad()
def load_detector_weights(detector: PoseDetector, path: Path) -> None:
    """Set every weight to that of pose_detection.tflite.

    Raises:
        SourceError: see tflite_weights.read_convolutions.
        ConfigError: the file is of another network, or another width; the detector is then unchanged.
    """
    stored, order = read_convolutions(path), file_order(detector)
    pairs = list(zip(order, stored, strict=False))
    if len(stored) != len(order) or any(tuple(module.weight.shape) != one.weight.shape for module, one in pairs):
        raise ConfigError(
            f"weights of {path}",
            expected="those of pose_detection.tflite, and a network of width 1",
            got=f"{len(stored)} convolutions",
        )
    for module, one in pairs:
        set_convolution(module, one.weight, one.bias)


class Best(nn.Module):
    """Of PoseDetector's answers the MOST likely anchors, the likeliest first."""

    def __init__(self, detector: PoseDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> People:
        scores, place = self.detector(image)
        scores, best = scores.topk(MOST, dim=1)
        place = place.gather(1, best[..., None].expand(-1, -1, _NUMBERS))
        return People(_body_boxes(place), scores, place[..., :2])


def export_onnx(detector: PoseDetector, size: int = SIZE) -> bytes:
    """As a serialised ONNX model, N dynamic, its weights stored in float16, as they were in MediaPipe's file.

    Raises:
        ExportError: ONNX Runtime and torch disagree.
    """
    detector = detector.eval()
    model = halve_weights(to_onnx(Best(detector), size, OUTPUT_NAMES))
    images = np.random.default_rng(0).integers(0, 256, (3, size // 8, size // 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for part in (images[:1], images[1:]):
        with torch.no_grad():
            scores, place = detector(torch.from_numpy(part))
        answers = People(*map(torch.from_numpy, session.run(OUTPUT_NAMES, {"image": part})))
        best_scores = scores.topk(MOST, dim=1).values
        _compare("scores", (answers.scores - best_scores).abs() / TOLERANCE_SCORE)
        # Anchors that score the same may come in any order: each answer must be one of them, whole.
        everyone = torch.cat([_body_boxes(place), place[..., :2], scores[..., None]], dim=2)
        answered = torch.cat([answers.boxes, answers.heads, answers.scores[..., None]], dim=2)
        limits = torch.tensor([TOLERANCE_PX] * 6 + [TOLERANCE_SCORE])
        off = (answered[:, :, None] - everyone[:, None]).abs() / limits
        _compare("boxes and heads", off.amax(dim=3).amin(dim=2))
    return model


def _compare(name: str, off: Tensor) -> None:
    """Raises ExportError unless differences, in tolerances, are at most 1."""
    largest = float(off.max())
    if not largest <= 1:  # NaN too
        raise ExportError(
            f"the pose detector's ONNX model disagrees with torch in {name}",
            expected="at most the tolerance",
            got=f"{largest:g} times as much",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 0, or 2 with one line of explanation."""
    parser = argparse.ArgumentParser(prog="python -m training.pose_detector", description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="pose_detection.tflite of MediaPipe")
    parser.add_argument("--bundle", type=Path, required=True, help="that it is to come along with")
    parser.add_argument("--width", type=float, default=1.0, help="of all layers; MediaPipe's weights fit 1")
    options = parser.parse_args(arguments)
    try:
        bundle, detector = load_bundle(options.bundle), PoseDetector(options.width)
        load_detector_weights(detector, options.weights)
        details = {"size": SIZE, "score": MIN_SCORE, "source": f"MediaPipe's {options.weights.name}, Apache-2.0"}
        add_part(bundle, PART, export_onnx(detector), details)
    except (MetroError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
