"""The attention view of one person: where the tokens lie in the image, and how much each attends to each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from metro_ros.core.bundle import Bundle
from metro_ros.core.camera import weak_perspective_px
from metro_ros.core.crop import Box, crop_image
from metro_ros.core.engines import Output
from metro_ros.core.engines.onnxruntime import session_options
from metro_ros.core.errors import BundleError, ConfigError, EngineError
from metro_ros.core.mirror import mirror_output

PART = "attention"
OUTPUT_NAMES = ("joints", "vertices", "camera", "attention")
REMEDY = "write the bundle again with python -m training.export --attention"
ROW_TOLERANCE = 1e-3
"""How far the sum of a row may be from 1: a softmax in float32 is off by 1e-6."""


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """What the network's last layer attends to, averaged over its heads (Lin et al., section 4.4 and figure 1).

    box: the crop that was looked at; joints (J, 3) and vertices (V_0, 3) of the coarsest level: float32, metres,
    root-relative, axes as the manifest's camera_frame says; camera: (3,) s, tx, ty, see `weak_perspective_px`; weights:
    (T, T) float32, T = J + V_0, joints first: row i tells how much token i attends to each token, and sums to 1.
    """

    box: Box
    joints: npt.NDArray[np.float32]
    vertices: npt.NDArray[np.float32]
    camera: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]

    @property
    def tokens_px(self) -> npt.NDArray[np.floating]:
        """(T, 2) pixels of the image, where the network sees joints and vertices."""
        return weak_perspective_px(np.concatenate((self.joints, self.vertices)), self.camera, self.box)


class Share(NamedTuple):
    """How much of a joint's attention goes to `joint` itself, and to it and the vertices nearest to it: `total`.

    equal: what `total` would be if every token were attended to equally.
    """

    joint: int
    itself: float
    total: float
    equal: float


class AttentionNetwork:
    """The part `attention` of a bundle, by ONNX Runtime: for pictures, one person at a time."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises ConfigError for a bundle without the part, BundleError for another graph, EngineError otherwise."""
        path = bundle.part_file(PART)
        if path is None:
            raise ConfigError(
                f"the bundle {bundle.path} has no attention view", expected=f"a part {PART}", got="none", remedy=REMEDY
            )
        self._bundle = bundle
        self._path = path
        self._session = _open(path)
        names = [output.name for output in self._session.get_outputs()]
        if not set(OUTPUT_NAMES) <= set(names):
            raise BundleError(
                f"outputs of {path}", expected=", ".join(OUTPUT_NAMES), got=", ".join(names), remedy=REMEDY
            )
        self._input = self._session.get_inputs()[0].name

    def look(self, image_bgr: npt.NDArray[np.uint8], box: Box) -> Attention:
        """The attention for whoever `box` shows of an image, uint8 (H, W, 3) BGR; a mirrored bundle mirrors the crop.

        Raises ImageError for an image of another type, BundleError when the graph does not fit the manifest or its
        attention is none, EngineError when the library fails.
        """
        crop = crop_image(image_bgr, box, self._bundle.manifest.crop.size)
        if self._bundle.mirrored:
            crop = np.ascontiguousarray(crop[:, ::-1])
        try:
            joints, vertices, camera, weights = self._session.run(OUTPUT_NAMES, {self._input: crop[None]})
        except Exception as error:  # its own exception types share no public base
            raise EngineError(f"onnxruntime failed on {self._path}", got=error) from error
        self._check(joints, vertices, camera, weights)
        output = Output(joints, vertices, camera, None)
        if self._bundle.mirrored:
            output = mirror_output(output)
        return Attention(box, output.joints[0], output.vertices[0], output.camera[0], weights[0])

    def _check(self, *values: npt.NDArray[np.float32]) -> None:
        joints, vertices = len(self._bundle.skeleton), self._bundle.levels[0]
        tokens = joints + vertices
        shapes = ((1, joints, 3), (1, vertices, 3), (1, 3), (1, tokens, tokens))
        for name, value, shape in zip(OUTPUT_NAMES, values, shapes, strict=True):
            if value.shape != shape or not np.isfinite(value).all():
                got = value.shape if value.shape != shape else "NaN or infinity"
                raise BundleError(
                    f"output {name} of {self._path}",
                    expected=f"finite {shape}, by the manifest",
                    got=got,
                    remedy=REMEDY,
                )
        weights = values[-1]
        worst = float(np.abs(weights.sum(axis=2) - 1).max())
        if weights.min() < 0 or worst > ROW_TOLERANCE:
            raise BundleError(
                f"output attention of {self._path}",
                expected="rows of weights from 0 that sum to 1",
                got=f"a least of {weights.min():g}, sums off by {worst:g}",
                remedy=REMEDY,
            )


def token_regions(bundle: Bundle) -> npt.NDArray[np.intp]:
    """(T,) index of the joint that each token belongs to: a joint itself, a coarse vertex its nearest one at rest."""
    joints = bundle.joint_regressor @ bundle.template
    vertices = bundle.template[bundle.rows[0]]
    nearest = np.linalg.norm(vertices[:, None] - joints, axis=2).argmin(axis=1)
    return np.concatenate((np.arange(len(joints)), nearest))


def shares(attention: Attention, joint: int, regions: npt.NDArray[np.intp]) -> list[Share]:
    """Where the attention of `joint` goes, the most first; totals sum to 1. regions: see `token_regions`."""
    row, count = attention.weights[joint], len(attention.joints)
    totals = np.bincount(regions, row, count)
    equal = np.bincount(regions, minlength=count) / len(regions)
    order = np.argsort(-totals, kind="stable")
    return [Share(int(other), float(row[other]), float(totals[other]), float(equal[other])) for other in order]


def _open(path: Path) -> Any:
    """A session on the CPU. Raises EngineError when the library is missing or refuses the file."""
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            "the attention view needs onnxruntime", got="not installed", remedy="pip install onnxruntime"
        ) from error
    try:
        return onnxruntime.InferenceSession(str(path), session_options(None), providers=["CPUExecutionProvider"])
    except Exception as error:  # its own exception types share no public base
        raise EngineError(f"onnxruntime cannot load {path}", got=error) from error
