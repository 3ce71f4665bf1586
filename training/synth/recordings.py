"""Which recordings of a motion file are used."""

from __future__ import annotations

from metro_ros.core.errors import ConfigError
from training.motion import Motion


def choose(motions: list[Motion], only: str, exclude: str) -> list[Motion]:
    """The recordings that two comma-separated lists leave. Raises ConfigError on unknown names or when none is left."""
    wanted, unwanted = ({name for name in text.split(",") if name} for text in (only, exclude))
    unknown = (wanted | unwanted) - {motion.name for motion in motions}
    if unknown:
        names = ", ".join(motion.name for motion in motions)
        raise ConfigError("unknown recordings", expected=names, got=", ".join(sorted(unknown)))
    left = [motion for motion in motions if motion.name not in unwanted and (not wanted or motion.name in wanted)]
    if not left:
        raise ConfigError("no recording is left", expected="at least one", got="none")
    return left
