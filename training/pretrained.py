"""A backbone that has seen ImageNet: HRNet's published weights, as its authors or timm keep them, into a Metro."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from metro_ros.core.errors import ConfigError
from training.network import Metro
from training.original_weights import read_state_dict
from training.tensor_file import non_finite

_PARALLEL_PREFIX = "module."


class BackboneReport(NamedTuple):
    """Names of weights: loaded; ignored, which the file alone has or has in another shape; missing in the file."""

    loaded: tuple[str, ...]
    ignored: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        return f"{len(self.loaded)} weights loaded, {len(self.ignored)} ignored, {len(self.missing)} missing"


def load_backbone_weights(metro: Metro, path: str | Path) -> BackboneReport:
    """Load into `metro.backbone` what has its names and shapes.

    From hrnetv2_w64_imagenet_pretrained.pth, or timm's hrnet_w64.ms_in1k. The paper's networks start from such
    weights; the classifier in them is of no use here.

    Raises:
        SourceError: the file is missing, damaged, or holds anything but tensors by name.
        ConfigError: less than half of the backbone is in it, or not all is finite; `metro` is then unchanged.
    """
    content = read_state_dict(Path(path))
    stored = {name.removeprefix(_PARALLEL_PREFIX): value for name, value in content.items()}
    own = metro.backbone.state_dict()
    weights = {name: stored[name] for name in own if name in stored and stored[name].shape == own[name].shape}
    missing = tuple(name for name in own if name not in weights)
    if len(weights) < len(missing):
        raise ConfigError(
            f"weights of {path}",
            expected=f"at least half of the {len(own)} of the network's {type(metro.backbone).__name__}",
            got=len(weights),
            remedy="take the file of an HRNet as wide as the network's",
        )
    broken = non_finite(weights)
    if broken:
        raise ConfigError(f"weights of {path}", expected="finite numbers", got=f"NaN or infinity in {broken[0]}")
    metro.backbone.load_state_dict(weights, strict=False)
    return BackboneReport(tuple(weights), tuple(name for name in stored if name not in weights), missing)
