"""How well a model did on a labelled clip: every frame counts, and a frame without an answer counts as a failure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from metro_ros.core.bundle import Bundle
from metro_ros.core.clip import Clip
from metro_ros.core.draw import silhouette
from metro_ros.core.errors import SourceError
from metro_ros.core.metrics import f_score, mpjpe, mpvpe, pa_mpjpe, procrustes_align, silhouette_iou
from metro_ros.core.skeleton import J14, Skeleton

MM_PER_M = 1e3
F_SCORES_M = (0.005, 0.015)
"""Distances of FreiHAND's F-scores, for meshes of hands."""


class FoundPerson(Protocol):
    """What is compared with the truth; `metro_ros.core.estimator.Person` is one. Metres, camera frame, absolute."""

    @property
    def score(self) -> float: ...
    @property
    def joints(self) -> npt.NDArray[np.float32]:
        """(J, 3)"""

    @property
    def vertices(self) -> npt.NDArray[np.float32]:
        """(V, 3), the finest level"""


class FrameErrors(NamedTuple):
    """One frame against its truth. lost: nobody was found; f_5mm, f_15mm: of hands, see `hand_f_scores`."""

    mpjpe_mm: float
    pa_mpjpe_mm: float
    mpvpe_mm: float
    silhouette_iou: float
    lost: bool
    f_5mm: float | None = None
    f_15mm: float | None = None


@dataclass(frozen=True, slots=True)
class ClipResult:
    """Means over all frames of a clip, the `lost` ones among them. See `evaluate_frame` for what each number is."""

    frames: int
    lost: int
    mpjpe_mm: float
    pa_mpjpe_mm: float
    mpvpe_mm: float
    silhouette_iou: float
    f_5mm: float | None = None
    f_15mm: float | None = None


def evaluate_frame(clip: Clip, frame: int, people: Sequence[FoundPerson] | None, bundle: Bundle) -> FrameErrors:
    """Compare the person with the highest score among `people` with the body in `frame` of the clip.

    mpjpe_mm: the `scored_joints` after the roots (mid-hips, wrists) are laid upon each other; pa_mpjpe_mm: the same
    joints after Procrustes alignment; mpvpe_mm: all vertices after the roots are laid upon each other; silhouette_iou:
    the mesh as it projects into the image, unaligned. The truth's joints are regressed from its vertices.

    Nobody found (None or empty) is a failure: the silhouette scores 0, and the joints and vertices are those of the
    bundle's template at the true root, what a model would answer that never looks at the image.

    Raises SourceError when the clip shows another body model than the bundle has.
    """
    check_same_body(clip, bundle)
    truth = clip.vertices(frame)
    truth_joints = bundle.joint_regressor @ truth
    best = max(people, key=lambda person: person.score) if people else None
    if best is None:
        vertices, joints = bundle.template, bundle.joint_regressor @ bundle.template
        overlap = 0.0
    else:
        vertices, joints = best.vertices, best.joints
        faces = bundle.faces[-1]
        overlap = silhouette_iou(silhouette(vertices, faces, clip.camera), silhouette(truth, faces, clip.camera))
    scored = scored_joints(bundle.skeleton)
    root, truth_root = bundle.skeleton.root(joints), bundle.skeleton.root(truth_joints)
    joints, truth_joints = joints[scored] - root, truth_joints[scored] - truth_root
    return FrameErrors(
        mpjpe_mm=MM_PER_M * float(mpjpe(joints, truth_joints)),
        pa_mpjpe_mm=MM_PER_M * float(pa_mpjpe(joints, truth_joints)),
        mpvpe_mm=MM_PER_M * float(mpvpe(vertices, truth, root, truth_root)),
        silhouette_iou=overlap,
        lost=best is None,
        **hand_f_scores(vertices, truth, bundle.skeleton),
    )


def hand_f_scores(
    vertices: npt.NDArray[np.floating], truth: npt.NDArray[np.floating], skeleton: Skeleton
) -> dict[str, float]:
    """f_5mm and f_15mm of two meshes (V, 3), metres, after Procrustes alignment, as FreiHAND scores hands.

    Empty for bodies: millimetres say nothing of them, and ten thousand vertices take a second.
    """
    if set(J14) <= set(skeleton.names):
        return {}
    aligned = procrustes_align(vertices, truth)
    return {f"f_{1e3 * distance:.0f}mm": float(f_score(aligned, truth, distance)) for distance in F_SCORES_M}


def scored_joints(skeleton: Skeleton) -> list[int]:
    """Indices of METRO's fourteen joints (`J14`) where the skeleton has them, else of all, as hands are scored."""
    return skeleton.indices(J14) if set(J14) <= set(skeleton.names) else list(range(len(skeleton)))


def summarize(errors: Iterable[FrameErrors]) -> ClipResult:
    """Average over frames, of one clip or of many. Raises SourceError when there are none."""
    rows = list(errors)
    if not rows:
        raise SourceError("nothing to evaluate", expected="one frame or more", got="none")
    means = np.mean([row[:4] for row in rows], axis=0)
    result = ClipResult(len(rows), sum(row.lost for row in rows), *map(float, means))
    scores = [(row.f_5mm, row.f_15mm) for row in rows if row.f_5mm is not None and row.f_15mm is not None]
    if not scores:
        return result
    f_5mm, f_15mm = np.mean(scores, axis=0).tolist()
    return replace(result, f_5mm=f_5mm, f_15mm=f_15mm)


def evaluate_clip(clip: Clip, people_per_frame: Sequence[Sequence[FoundPerson] | None], bundle: Bundle) -> ClipResult:
    """Compare the people found in each frame of `clip` with its truth; some 30 ms a frame for 12,272 vertices.

    people_per_frame: one entry a frame, None or empty where nobody was found. Raises SourceError when their number is
    not the clip's, or when the clip shows another body model than the bundle has.
    """
    if len(people_per_frame) != len(clip):
        raise SourceError(f"people per frame of {clip.path}", expected=f"{len(clip)} frames", got=len(people_per_frame))
    return summarize(evaluate_frame(clip, frame, people, bundle) for frame, people in enumerate(people_per_frame))


def check_same_body(clip: Clip, bundle: Bundle) -> None:
    """Raises SourceError when the clip shows another body model than the bundle has."""
    vertices = len(clip.rest_vertices)
    if vertices != bundle.levels[-1]:
        raise SourceError(
            f"the clip {clip.path} shows another body than the model {bundle.manifest.name} has",
            expected=f"{bundle.levels[-1]} vertices",
            got=vertices,
            remedy="make clips and bundle from the same body model",
        )
