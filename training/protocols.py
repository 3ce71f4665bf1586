"""What METRO and its datasets measure: which joints and vertices, against which truth, aligned how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metro_ros.core.bundle import Bundle
from metro_ros.core.errors import ConfigError, SourceError
from metro_ros.core.metrics import f_score, mpjpe, mpvpe, pa_mpjpe, procrustes_align
from metro_ros.core.skeleton import HIPS, J14
from training.datasets.sample import Sample
from training.mesh_spec import HAND_21_NAMES

MM_PER_M = 1e3

MeshTruth = Callable[[Sample], NDArray[np.floating] | None]
"""A sample → (V, 3) vertices of its true mesh, the finest level, metres, any origin; None where it is not known."""
Source = Literal["dataset", "body model", "mesh", "another body", "none"]
"""Where a truth came from. mesh: joints regressed from it; another body: a mesh with other vertices, of no use."""


@dataclass(frozen=True, slots=True)
class EvaluationProtocol:
    """One way of measuring.

    Attributes:
        name: on the command line.
        title: for people.
        joint_names: the joints that count.
        root_joints: MPJPE lays their mean upon the truth's.
        metrics: what is reported, in the order of the papers; millimetres, F-scores in 0..1.
    """

    name: str
    title: str
    joint_names: tuple[str, ...]
    root_joints: tuple[str, ...]
    metrics: tuple[str, ...]


HUMAN36M = EvaluationProtocol("h36m", "Human3.6M, protocol 2", J14, HIPS, ("mpjpe_mm", "pa_mpjpe_mm"))
"""METRO, section 4: the frontal camera of the test subjects. There is no true mesh, hence no MPVPE."""
THREEDPW = EvaluationProtocol("3dpw", "3DPW", J14, HIPS, ("mpvpe_mm", "mpjpe_mm", "pa_mpjpe_mm"))
FREIHAND = EvaluationProtocol(
    "freihand",
    "FreiHAND",
    HAND_21_NAMES,
    HAND_21_NAMES[:1],
    ("pa_mpvpe_mm", "pa_mpjpe_mm", "f_5mm", "f_15mm", "mpvpe_mm", "mpjpe_mm"),
)
"""After Procrustes, joints and vertices each for themselves, as the server does it; then relative to the wrist.

The server's alignment may mirror, this one never does: it differs only for hands that are nearer to the mirror image.
"""
PROTOCOLS = {protocol.name: protocol for protocol in (HUMAN36M, THREEDPW, FREIHAND)}


class Relative(NamedTuple):
    """A mesh and the joints regressed from it, relative to the mesh's own root. float64, metres."""

    joints: NDArray[np.float64]
    """(K, 3), in the order of the protocol"""
    vertices: NDArray[np.float64]
    """(V, 3)"""


class Regression:
    """How joints and root follow from a bundle's finest mesh."""

    def __init__(
        self, bundle: Bundle, protocol: EvaluationProtocol, root_regressor: NDArray[np.floating] | None = None
    ) -> None:
        """root_regressor: (V,), the root where it is no mean of joints (METRO's body: the pelvis of Human3.6M), or None
        for the mean of the protocol's root joints.

        Raises ConfigError when the bundle lacks a joint of the protocol or has another number of vertices.
        """
        missing = [name for name in protocol.joint_names if name not in bundle.skeleton.names]
        if missing:
            raise ConfigError(
                f"the model {bundle.manifest.name} and the protocol {protocol.name}",
                expected=f"the joints {', '.join(protocol.joint_names)}",
                got=f"no {', '.join(missing)}",
                remedy="hands are measured by freihand, bodies by the others",
            )
        rows = bundle.joint_regressor.astype(np.float64)
        self.joint_rows = rows[bundle.skeleton.indices(protocol.joint_names)]
        if root_regressor is None:
            self.root_row = rows[bundle.skeleton.indices(protocol.root_joints)].mean(axis=0)
            self.root_source = f"mean of {' and '.join(protocol.root_joints)}"
        elif root_regressor.shape == (bundle.levels[-1],):
            self.root_row, self.root_source = root_regressor.astype(np.float64), "its own regressor"
        else:
            raise ConfigError("the root regressor", expected=f"({bundle.levels[-1]},)", got=root_regressor.shape)

    def __call__(self, vertices: NDArray[np.floating]) -> Relative:
        """(V, 3) metres, any origin → joints and vertices from the root."""
        mesh: NDArray[np.float64] = vertices.astype(np.float64)
        mesh = mesh - self.root_row @ mesh  # first, so that rows which do not quite sum to one shift nothing
        return Relative(self.joint_rows @ mesh, mesh)


class Truth(NamedTuple):
    """What is known of a sample: (K, 3) joints from any origin, (V, 3) vertices from the root, and who says so."""

    joints: NDArray[np.float64] | None
    joint_source: Source
    vertices: NDArray[np.float64] | None
    mesh_source: Source


class Score(NamedTuple):
    """One sample against its truth. errors: by metric, only those that its truth allows."""

    errors: dict[str, float]
    joint_truth: Source
    mesh_truth: Source


class Scorer:
    """Compares one mesh after the other with what a dataset says is true.

    The prediction's joints are always regressed from its mesh. The truth's are the dataset's own where all that the
    protocol asks for are known, else they are regressed from the true mesh.
    """

    def __init__(
        self,
        protocol: EvaluationProtocol,
        regression: Regression,
        dataset_joints: Sequence[str],
        mesh_truth: MeshTruth | None = None,
        *,
        regress_truth: bool = False,
    ) -> None:
        """dataset_joints: names of the samples' joints; mesh_truth: for samples without vertices, say from their pose;
        regress_truth: joints of the truth from its mesh even where the dataset has its own.
        """
        self.protocol, self.regression, self.mesh_truth = protocol, regression, mesh_truth
        names = list(dataset_joints)
        covered = set(protocol.joint_names) <= set(names) and not regress_truth
        self.rows = [names.index(name) for name in protocol.joint_names] if covered else None
        self.root = [protocol.joint_names.index(name) for name in protocol.root_joints]

    def __call__(self, sample: Sample, vertices: NDArray[np.floating]) -> Score:
        """Score the mesh (V, 3) that was predicted for the sample. Raises as `truth` does."""
        predicted, truth = self.regression(vertices), self.truth(sample)
        errors = {}
        if truth.joints is not None:
            errors["mpjpe_mm"] = MM_PER_M * float(mpjpe(predicted.joints, truth.joints, root=self.root))
            errors["pa_mpjpe_mm"] = MM_PER_M * float(pa_mpjpe(predicted.joints, truth.joints))
        if truth.vertices is not None:
            errors |= self._mesh_errors(predicted.vertices, truth.vertices)
        errors = {name: errors[name] for name in self.protocol.metrics if name in errors}
        return Score(errors, truth.joint_source, truth.mesh_source)

    def truth(self, sample: Sample) -> Truth:
        """What is known of the sample. Raises SourceError when `mesh_truth` answers with another body."""
        mesh, mesh_source = self._true_mesh(sample, len(self.regression.root_row))
        vertices = None if mesh is None else mesh.vertices
        if self.rows is not None and (sample.joint_confidence[self.rows] > 0).all():
            return Truth(sample.joints[self.rows].astype(np.float64), "dataset", vertices, mesh_source)
        if mesh is None:
            return Truth(None, "none", None, mesh_source)
        return Truth(mesh.joints, "mesh", vertices, mesh_source)

    def _mesh_errors(self, predicted: NDArray[np.float64], true: NDArray[np.float64]) -> dict[str, float]:
        """Only what the protocol asks for: the F-scores take most of the time."""
        errors = {"mpvpe_mm": MM_PER_M * float(mpvpe(predicted, true))}
        if "pa_mpvpe_mm" in self.protocol.metrics:
            aligned = procrustes_align(predicted, true)
            errors["pa_mpvpe_mm"] = MM_PER_M * float(mpvpe(aligned, true))
            errors["f_5mm"] = float(f_score(aligned, true, 0.005))
            errors["f_15mm"] = float(f_score(aligned, true, 0.015))
        return errors

    def _true_mesh(self, sample: Sample, count: int) -> tuple[Relative | None, Source]:
        if sample.vertices is not None and len(sample.vertices) == count:
            return self.regression(sample.vertices), "dataset"
        vertices = self.mesh_truth(sample) if self.mesh_truth is not None else None
        if vertices is None:
            return None, "none" if sample.vertices is None else "another body"
        if vertices.shape != (count, 3):
            raise SourceError(
                f"the true mesh of {sample.key}",
                expected=f"({count}, 3), as the model has it",
                got=vertices.shape,
                remedy="give the body model that the network was trained for",
            )
        return self.regression(vertices), "body model"


@dataclass(frozen=True, slots=True)
class Result:
    """Means over samples.

    Attributes:
        samples: that were scored; unusable: rows that could not be read.
        figures: by metric of the protocol; None where no sample's truth allows it.
        joint_truth, mesh_truth: how many samples had theirs from where.
    """

    samples: int
    unusable: int
    figures: dict[str, float | None]
    joint_truth: dict[str, int]
    mesh_truth: dict[str, int]


def summarize(protocol: EvaluationProtocol, scores: Iterable[Score], unusable: int = 0) -> Result:
    """Average over samples, each metric over those that have it. Raises SourceError when there are none."""
    rows = list(scores)
    if not rows:
        raise SourceError("nothing to evaluate", expected="one sample or more", got=f"{unusable} unusable rows")
    columns = {name: [row.errors[name] for row in rows if name in row.errors] for name in protocol.metrics}
    return Result(
        samples=len(rows),
        unusable=unusable,
        figures={name: float(np.mean(column)) if column else None for name, column in columns.items()},
        joint_truth=dict(Counter(row.joint_truth for row in rows)),
        mesh_truth=dict(Counter(row.mesh_truth for row in rows)),
    )
