"""A picture of reliability bins: what is said beside what is so, and how many answers say it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from metro_ros.core.calibration import Reliability
from metro_ros.core.errors import SourceError


def write_diagram(path: Path, measured: Reliability, threshold_mm: float) -> None:
    """Write the reliability diagram (Guo et al. 2017, figure 1) as an image. Raises SourceError when it cannot be."""
    from matplotlib.figure import Figure  # which takes a second

    bins = len(measured.counts)
    centres, width, filled = (np.arange(bins) + 0.5) / bins, 1 / bins, measured.counts > 0
    figure = Figure(figsize=(5, 6), layout="constrained")
    diagram, shares = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    diagram.bar(centres[filled], measured.right[filled], width, color="tab:blue", edgecolor="white", label="measured")
    diagram.plot(measured.confidence[filled], measured.right[filled], "o", color="black", markersize=4)
    diagram.plot((0, 1), (0, 1), "--", color="tab:gray", label="calibrated")
    diagram.set(xlim=(0, 1), ylim=(0, 1), ylabel=f"share within {threshold_mm:g} mm")
    diagram.set_title(f"{measured.counts.sum()} joints, expected calibration error {measured.ece:.3f}")
    diagram.legend(loc="upper left")
    shares.bar(centres, measured.counts / measured.counts.sum(), width, color="tab:blue", edgecolor="white")
    shares.set(xlabel="confidence", ylabel="share of joints")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot write {path}", expected="an image file, such as .png", got=error) from error
