"""The errors that human mesh recovery reports, per sample: MPJPE, PA-MPJPE, MPVPE and silhouette IoU.

Distances come back in the unit that goes in (metres everywhere in this project).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]


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


def silhouette_iou(prediction: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Intersection over union of two masks (H, W) bool; 1 when both are empty."""
    union = np.count_nonzero(prediction | truth)
    return np.count_nonzero(prediction & truth) / union if union else 1.0
