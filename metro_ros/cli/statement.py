"""What a model says of itself: what it was measured on, what it can't do."""

from collections.abc import Iterator, Mapping
from typing import Any

from metro_ros.core.manifest import Manifest

LIMITS = "limits"
"""Entry of the manifest's `measured` with the model's limits, a string or a list of strings."""
NO_LIMITS = "not stated by whoever made it: check it on images of your own before you rely on it"


def model_statement(manifest: Manifest) -> list[str]:
    """Lines for the screen: name and licence, what was measured, and what the model can't do."""
    limits = manifest.measured.get(LIMITS) or [NO_LIMITS]
    measured = {name: value for name, value in manifest.measured.items() if name != LIMITS}
    lines = [f"Model: {manifest.name} (weights: {manifest.licence['weights']})"]
    if measured:
        lines.append("Measured: " + ", ".join(_flat(measured)))
    lines += [f"Limits: {limit}" for limit in ([limits] if isinstance(limits, str) else limits)]
    return lines


def _flat(measured: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in measured.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name} {value:.4g}" if isinstance(value, float) else f"{prefix}{name} {value}"
