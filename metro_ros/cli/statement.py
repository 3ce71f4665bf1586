"""What a model says of itself: what it was measured on, what it can't do."""

from collections.abc import Mapping
from typing import Any

from metro_ros.core.manifest import Manifest

LIMITS = "limits"
"""Entry of the manifest's `measured` with the model's limits, a string or a list of strings."""
SHOWN = ("frames", "mpjpe_mm", "pa_mpjpe_mm", "mpvpe_mm", "silhouette_iou", "recall", "precision", "mota", "idf1")
"""Figures of a measurement that are told; the manifest has the rest."""
NO_LIMITS = "not stated by whoever made it: check it on images of your own before you rely on it"


def model_statement(manifest: Manifest) -> list[str]:
    """Lines for the screen: name and licence, what was measured, and what the model can't do."""
    limits = manifest.measured.get(LIMITS) or [NO_LIMITS]
    measured = {name: value for name, value in manifest.measured.items() if name != LIMITS}
    lines = [f"Model: {manifest.name} (weights: {manifest.licence['weights']})"]
    lines += [f"Measured, {name.replace('_', ' ')}: {_figures(value)}" for name, value in measured.items()]
    lines += [f"Limits: {limit}" for limit in ([limits] if isinstance(limits, str) else limits)]
    return lines


def _figures(value: Any) -> str:
    """One set's figures in a line: those that people compare, or all where it has none of these."""
    if not isinstance(value, Mapping):
        return _number(value)
    shown = {name: value[name] for name in SHOWN if name in value} or value
    return ", ".join(f"{name} {_figures(one)}" for name, one in shown.items())


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
