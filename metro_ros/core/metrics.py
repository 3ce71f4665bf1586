"""What human mesh recovery reports, per sample: MPJPE and MPVPE, both after Procrustes too, F-score, silhouette IoU.

Distances come back in the unit that goes in (metres everywhere in this project).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]

CHUNK = 1 << 21
"""Distances that the F-score holds at a time: 16 MiB."""


def mpjpe(prediction: Array, truth: Array, root: Sequence[int] | None = None) -> Array:
    """Mean per-joint position error: (..., J, 3) and (..., J, 3) → (...).

    root: indices of the joints whose mean is first subtracted from both sides (METRO: the two hips); None: as they are.
    """
    if root is not None:
        rows = list(root)
        prediction = prediction - prediction[..., rows, :].mean(axis=-2, keepdims=True)
        truth = truth - truth[..., rows, :].mean(axis=-2, keepdims=True)
    return np.linalg.norm(prediction - truth, axis=-1).mean(axis=-1)


def mpvpe(
    prediction: Array, truth: Array, prediction_root: Array | None = None, truth_root: Array | None = None
) -> Array:
    """Mean per-vertex position error: (..., V, 3) and (..., V, 3) → (...).

    prediction_root, truth_root: (..., 3), subtracted from their side first where given.
    """
    if prediction_root is not None:
        prediction = prediction - prediction_root[..., None, :]
    if truth_root is not None:
        truth = truth - truth_root[..., None, :]
    return mpjpe(prediction, truth)


def procrustes_align(prediction: Array, truth: Array) -> Array:
    """Move, turn and scale each prediction (..., J, 3) onto its truth (..., J, 3) with the least squared error.

    A proper rotation only: a mirrored body stays wrong. Umeyama, "Least-squares estimation of transformation parameters
    between two point patterns", PAMI 1991. Computed in float64; returned as float64.
    """
    prediction, truth = np.asarray(prediction, np.float64), np.asarray(truth, np.float64)
    prediction_mean = prediction.mean(axis=-2, keepdims=True)
    truth_mean = truth.mean(axis=-2, keepdims=True)
    a, b = prediction - prediction_mean, truth - truth_mean
    u, singular, vt = np.linalg.svd(np.swapaxes(b, -1, -2) @ a)  # covariance = U diag(S) Vt, rotation = U D Vt
    handedness = np.ones_like(singular)
    handedness[..., -1] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * handedness[..., None, :]) @ vt
    spread = np.square(a).sum(axis=(-2, -1))
    scale = (singular * handedness).sum(axis=-1) / np.maximum(spread, np.finfo(np.float64).tiny)
    return scale[..., None, None] * (a @ np.swapaxes(rotation, -1, -2)) + truth_mean


def pa_mpjpe(prediction: Array, truth: Array) -> Array:
    """MPJPE after `procrustes_align`: (..., J, 3) and (..., J, 3) → (...)."""
    return mpjpe(procrustes_align(prediction, truth), np.asarray(truth, np.float64))


def pa_mpvpe(prediction: Array, truth: Array) -> Array:
    """MPVPE after `procrustes_align`, by all vertices: (..., V, 3) and (..., V, 3) → (...)."""
    return pa_mpjpe(prediction, truth)


def f_score(prediction: Array, truth: Array, threshold: float) -> Array:
    """F-score of point sets at a distance: (..., V, 3) and (..., W, 3) → (...), in 0..1.

    Precision P: share of predicted points with a true point nearer than `threshold`; recall R: the other way round;
    F = 2PR / (P + R), 0 where both are 0. Which point belongs to which doesn't count. Knapitsch et al., "Tanks and
    Temples", ACM TOG 2017; F@5 mm and F@15 mm of FreiHAND (ICCV 2019) are this at 0.005 and 0.015 m. 4 ms for 778 by
    778 points.
    """
    prediction, truth = np.asarray(prediction, np.float64), np.asarray(truth, np.float64)
    outer = np.broadcast_shapes(prediction.shape[:-2], truth.shape[:-2])
    pairs = zip(
        np.broadcast_to(prediction, outer + prediction.shape[-2:]).reshape(-1, *prediction.shape[-2:]),
        np.broadcast_to(truth, outer + truth.shape[-2:]).reshape(-1, *truth.shape[-2:]),
        strict=True,
    )
    scores = []
    for predicted, true in pairs:
        to_true, to_predicted = _nearest(predicted, true)
        precision, recall = np.mean(to_true < threshold), np.mean(to_predicted < threshold)
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return np.array(scores, np.float64).reshape(outer)


def _nearest(a: Array, b: Array) -> tuple[Array, Array]:
    """(N, 3) and (M, 3) → (N,) distance of each point of `a` to the nearest of `b`, and (M,) the other way round."""
    center = b.mean(axis=0)  # near the origin the expanded square loses no digits
    a, b = a - center, b - center
    b_square = np.square(b).sum(axis=1)
    rows = max(1, CHUNK // len(b))
    to_b, to_a = np.empty(len(a)), np.full(len(b), np.inf)
    for start in range(0, len(a), rows):
        part = a[start : start + rows]
        square = np.square(part).sum(axis=1)[:, None] + b_square - 2 * part @ b.T
        to_b[start : start + rows] = square.min(axis=1)
        np.minimum(to_a, square.min(axis=0), out=to_a)
    return np.sqrt(np.maximum(to_b, 0)), np.sqrt(np.maximum(to_a, 0))


def silhouette_iou(prediction: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Intersection over union of two masks (H, W) bool; 1 when both are empty."""
    union = np.count_nonzero(prediction | truth)
    return np.count_nonzero(prediction & truth) / union if union else 1.0
