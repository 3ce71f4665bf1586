"""Which part of which dataset each protocol measures on."""

from __future__ import annotations

from pathlib import Path

from metro_ros.core.errors import ConfigError
from training.datasets.freihand import FreiHand
from training.datasets.metro_tsv import MetroTsv
from training.datasets.sample import Dataset
from training.datasets.threedpw import ThreeDPW
from training.protocols import FREIHAND, THREEDPW, EvaluationProtocol


def open_evaluation_set(protocol: EvaluationProtocol, path: Path) -> Dataset:
    """The test set at `path`: a .yaml of METRO's own sets, for every protocol; or the folder of 3DPW or FreiHAND.

    Raises:
        ConfigError: Human3.6M from anything but a .yaml.
        SourceError: the dataset cannot be opened.
    """
    if path.suffix in (".yaml", ".yml"):
        return MetroTsv(path, "hand" if protocol is FREIHAND else "body")
    if protocol is THREEDPW:
        return ThreeDPW(path, "test")
    if protocol is FREIHAND:
        return FreiHand(path, "evaluation")
    raise ConfigError(f"the data of protocol {protocol.name}", expected="the .yaml of METRO's test set", got=path)
