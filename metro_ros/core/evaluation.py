"""How well a model did on a labelled clip: everyone in every frame counts, and who is not found is a failure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from metro_ros.core.bundle import Bundle
from metro_ros.core.camera import Camera
from metro_ros.core.clip import Clip
from metro_ros.core.draw import silhouette
from metro_ros.core.errors import SourceError
from metro_ros.core.metrics import f_score, mpjpe, mpvpe, pa_mpjpe, procrustes_align, silhouette_iou
from metro_ros.core.skeleton import J14, Skeleton
from metro_ros.core.tracking_metrics import TrackingCounts, TrackingScore, add_up

MM_PER_M = 1e3
MIN_VISIBLE = 0.25
"""Who shows less of the silhouette than this need not be found: no miss when nobody is, no mistake when somebody is.
A quarter is the head and a shoulder; MOTChallenge asks for a tenth, but of boxes."""
F_SCORES_M = (0.005, 0.015)
"""Distances of FreiHAND's F-scores, for meshes of hands."""


class FoundPerson(Protocol):
    """What is compared with the truth; `metro_ros.core.estimator.Person` is one. Metres, camera frame, absolute."""

    @property
    def id(self) -> int: ...
    @property
    def score(self) -> float: ...
    @property
    def joints(self) -> npt.NDArray[np.float32]:
        """(J, 3)"""

    @property
    def vertices(self) -> npt.NDArray[np.float32]:
        """(V, 3), the finest level"""

    @property
    def joint_confidence(self) -> npt.NDArray[np.float32] | None:
        """(J,) in 0..1, where the model has it"""


class BodyErrors(NamedTuple):
    """One body in one frame against its truth. lost: it was not found; f_5mm, f_15mm: of hands, see `hand_f_scores`."""

    mpjpe_mm: float
    pa_mpjpe_mm: float
    mpvpe_mm: float
    silhouette_iou: float
    lost: bool
    f_5mm: float | None = None
    f_15mm: float | None = None


class Score(NamedTuple):
    """What was measured on one clip, not yet averaged. bodies: everyone's who had to be found, frame by frame."""

    frames: int
    bodies: list[BodyErrors]
    tracking: TrackingCounts


@dataclass(frozen=True, slots=True)
class ClipResult:
    """Figures of one clip, or of several.

    frames: how many; bodies: how many had to be found in them (`MIN_VISIBLE`), and lost: how many of these were not.
    The next four are means over all bodies, the lost ones among them; see `compare_bodies` for what each number is. The
    rest is about boxes and ids: see `metro_ros.core.tracking_metrics.TrackingCounts`. clips_kept: in how many of the
    `clips` everyone had one id, and nobody else had it.
    """

    frames: int
    bodies: int
    lost: int
    mpjpe_mm: float
    pa_mpjpe_mm: float
    mpvpe_mm: float
    silhouette_iou: float
    recall: float
    precision: float
    mota: float
    idf1: float
    id_switches: int
    clips_kept: int
    clips: int
    f_5mm: float | None = None
    f_15mm: float | None = None


class ClipEvaluation:
    """Compares the people found in a clip with its truth, frame by frame; 30 ms a body of 12,272 vertices.

    Found people are matched with true ones by the tight boxes of their projected meshes, inside of the image
    (`TrackingScore`). Where a clip shows one person alone, the errors of its body are those of whoever was found with
    the highest score, wherever that is.
    """

    def __init__(self, clip: Clip, bundle: Bundle) -> None:
        """Raises SourceError when the clip shows another body model than the bundle has."""
        check_same_body(clip, bundle)
        self._clip, self._bundle = clip, bundle
        self._frame = 0
        self._bodies: list[BodyErrors] = []
        self._tracking = TrackingScore()

    def add(self, people: Sequence[FoundPerson] | None) -> dict[int, FoundPerson]:
        """The next frame's people, None or empty where nobody was found; {true person: whom it was compared with}.

        Raises SourceError when there is no next frame, or when two of them share an id.
        """
        clip, camera, frame = self._clip, self._clip.camera, self._frame
        if frame == len(clip):
            raise SourceError(f"people per frame of {clip.path}", expected=f"{len(clip)} frames", got="more")
        self._frame += 1
        found = list(people or ())
        truths = [clip.vertices(frame, person) for person in range(clip.people)]
        wanted = clip.visible[frame] >= MIN_VISIBLE
        pairs = self._tracking.add(
            np.array([tight_box(truth, camera) for truth in truths]),
            wanted,
            np.array([tight_box(person.vertices, camera) for person in found]).reshape(-1, 4),
            [person.id for person in found],
        )
        if clip.people == 1 and found:
            pairs = {0: max(range(len(found)), key=lambda index: found[index].score)}
        matches = {person: found[pairs[person]] for person in np.flatnonzero(wanted).tolist() if person in pairs}
        for person in np.flatnonzero(wanted).tolist():
            self._bodies.append(compare_bodies(truths[person], matches.get(person), camera, self._bundle))
        return matches

    def score(self) -> Score:
        """Of all frames; those that were not added count as frames in which nobody was found."""
        while self._frame < len(self._clip):
            self.add(None)
        return Score(len(self._clip), self._bodies, self._tracking.counts())


def compare_bodies(
    truth: npt.NDArray[np.floating], found: FoundPerson | None, camera: Camera, bundle: Bundle
) -> BodyErrors:
    """Compare a found body with the vertices (V, 3) of the true one, metres, camera frame.

    mpjpe_mm: the `scored_joints` after the roots (mid-hips, wrists) are laid upon each other; pa_mpjpe_mm: the same
    joints after Procrustes alignment; mpvpe_mm: all vertices after the roots are laid upon each other; silhouette_iou:
    the whole mesh, hidden or not, as it projects into the image, unaligned. The truth's joints are regressed from its
    vertices.

    None is a failure: the silhouette scores 0, and the joints and vertices are those of the bundle's template at the
    true root, what a model would answer that never looks at the image.
    """
    truth_joints = bundle.joint_regressor @ truth
    if found is None:
        vertices, joints = bundle.template, bundle.joint_regressor @ bundle.template
        overlap = 0.0
    else:
        vertices, joints = found.vertices, found.joints
        faces = bundle.faces[-1]
        overlap = silhouette_iou(silhouette(vertices, faces, camera), silhouette(truth, faces, camera))
    scored = scored_joints(bundle.skeleton)
    root, truth_root = bundle.skeleton.root(joints), bundle.skeleton.root(truth_joints)
    joints, truth_joints = joints[scored] - root, truth_joints[scored] - truth_root
    return BodyErrors(
        mpjpe_mm=MM_PER_M * float(mpjpe(joints, truth_joints)),
        pa_mpjpe_mm=MM_PER_M * float(pa_mpjpe(joints, truth_joints)),
        mpvpe_mm=MM_PER_M * float(mpvpe(vertices, truth, root, truth_root)),
        silhouette_iou=overlap,
        lost=found is None,
        **hand_f_scores(vertices, truth, bundle.skeleton),
    )


def tight_box(vertices: npt.NDArray[np.floating], camera: Camera) -> npt.NDArray[np.float64]:
    """Box (4,) px, left, top, right, bottom, of the part of a mesh that the image shows; NaN when it shows none."""
    pixels = camera.project(vertices)
    pixels = pixels[np.isfinite(pixels).all(axis=1)]
    nowhere = np.full(4, np.nan)
    if not len(pixels):
        return nowhere
    edge = np.array((camera.width, camera.height)) - 0.5
    low, high = np.clip(pixels.min(axis=0), -0.5, edge), np.clip(pixels.max(axis=0), -0.5, edge)
    return np.concatenate((low, high)) if (high > low).all() else nowhere


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


def summarize(scores: Iterable[Score]) -> ClipResult:
    """Figures of one clip or of many, everyone in every frame weighed equally. Raises SourceError without any."""
    every = list(scores)
    rows = [body for score in every for body in score.bodies]
    if not rows:
        raise SourceError("nothing to evaluate", expected="one person in one frame, or more", got="none")
    mpjpe_mm, pa_mpjpe_mm, mpvpe_mm, overlap = np.mean([row[:4] for row in rows], axis=0).tolist()
    tracking = add_up(score.tracking for score in every)
    f_scores = [(row.f_5mm, row.f_15mm) for row in rows if row.f_5mm is not None and row.f_15mm is not None]
    f_5mm, f_15mm = np.mean(f_scores, axis=0).tolist() if f_scores else (None, None)
    return ClipResult(
        frames=sum(score.frames for score in every),
        bodies=len(rows),
        lost=sum(row.lost for row in rows),
        mpjpe_mm=mpjpe_mm,
        pa_mpjpe_mm=pa_mpjpe_mm,
        mpvpe_mm=mpvpe_mm,
        silhouette_iou=overlap,
        recall=tracking.recall,
        precision=tracking.precision,
        mota=tracking.mota,
        idf1=tracking.idf1,
        id_switches=tracking.switches,
        clips_kept=tracking.clips_kept,
        clips=tracking.clips,
        f_5mm=f_5mm,
        f_15mm=f_15mm,
    )


def evaluate_clip(clip: Clip, people_per_frame: Sequence[Sequence[FoundPerson] | None], bundle: Bundle) -> ClipResult:
    """Compare the people found in each frame of `clip` with its truth; see `ClipEvaluation`.

    people_per_frame: one entry a frame, None or empty where nobody was found. Raises SourceError when their number is
    not the clip's, when two people in a frame share an id, or when the clip shows another body model than the bundle
    has.
    """
    if len(people_per_frame) != len(clip):
        raise SourceError(f"people per frame of {clip.path}", expected=f"{len(clip)} frames", got=len(people_per_frame))
    evaluation = ClipEvaluation(clip, bundle)
    for people in people_per_frame:
        evaluation.add(people)
    return summarize([evaluation.score()])


def check_same_body(clip: Clip, bundle: Bundle) -> None:
    """Raises SourceError when the clip shows another body model than the bundle has."""
    vertices = clip.rest_vertices.shape[1]
    if vertices != bundle.levels[-1]:
        raise SourceError(
            f"the clip {clip.path} shows another body than the model {bundle.manifest.name} has",
            expected=f"{bundle.levels[-1]} vertices",
            got=vertices,
            remedy="make clips and bundle from the same body model",
        )
