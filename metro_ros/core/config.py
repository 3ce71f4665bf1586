"""Settings: a dataclass field with its default, its meaning and its range in one place, for every front end to read."""

import dataclasses
import math
from typing import Any

from metro_ros.core.errors import ConfigError


def setting(default: Any, doc: str, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field with `default`; its metadata holds `doc` and the range, `low` and `high`, ends included."""
    return dataclasses.field(default=default, metadata={"doc": doc, "low": low, "high": high})


def check_settings(config: Any) -> None:
    """Raises ConfigError when a number of the dataclass instance `config` is outside of the range of its `setting`."""
    for field in dataclasses.fields(config):
        low, high = field.metadata.get("low"), field.metadata.get("high")
        value = getattr(config, field.name)
        if value is None or (low is None and high is None):
            continue
        inside = isinstance(value, int | float) and math.isfinite(value)
        if not inside or (low is not None and value < low) or (high is not None and value > high):
            wanted = f"{low} to {high}" if high is not None else f"at least {low}"
            raise ConfigError(f"{type(config).__name__}.{field.name}", expected=wanted, got=value)
