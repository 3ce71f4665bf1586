"""Crops drawn while training runs, by its loading processes: no image on disk, and none seen twice.

A stream is described by a JSON file: `{"motions": "FILE.npz"}` of bodies, or `{"subject": "hand"}`. It may also say
`exclude` (comma-separated recordings), `seed`, `occluded` (share), `rooms`, `renderer` and `cache`; paths are relative
to the file. `training.train --data synth:STREAM.json --workers 12 --pool 400000` renders and trains side by side.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from metro_ros.core.errors import ConfigError, SourceError
from training.anny_hand import TRAINING_HANDS, load_hand
from training.body import TRAINING_BANK, load_body_bank
from training.datasets.sample import Sample
from training.datasets.shards import SampleSource
from training.mesh_spec import MeshSpec
from training.motion import load_motions, mirror
from training.synth.hands import HandSampleConfig, HandSampleMaker
from training.synth.recordings import choose
from training.synth.render import choose_renderer
from training.synth.samples import SampleConfig, SampleMaker

ROWS = 1 << 24
"""Rows that the stream claims to have: it ends for nobody."""
ROOMS = 120
"""Backdrops that each loading process keeps, unless the description says otherwise: a megabyte each."""
FIELDS = {
    "subject": str, "motions": str, "exclude": str, "seed": int, "occluded": float, "rooms": int, "renderer": str,
    "cache": str,
}  # fmt: skip


class SyntheticStream:
    """Row i is drawn from the seed, i and the backdrops that its process has, each its own; satisfies
    `training.datasets.sample.Dataset`.

    Raises SourceError when the description cannot be read, ConfigError when it says something else than it may.
    """

    def __init__(self, path: Path, mesh: MeshSpec) -> None:
        self.name, self.path, self.mesh = path.stem, path, mesh
        self.joint_names = mesh.joint_names
        self.fields = read_description(path)
        self._maker: SampleSource | None = None

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> Sample:
        """Row `index`. Raises IndexError when there is none."""
        if not 0 <= index < ROWS:
            raise IndexError(index)
        if self._maker is None:
            self._maker = self._make()
        return self._maker.sample(np.random.default_rng([self.fields.get("seed", 0), 7, index]))

    def __getstate__(self) -> dict[str, Any]:
        """Every process makes its own backdrops, and its own context to draw in."""
        return {**self.__dict__, "_maker": None}

    def _make(self) -> SampleSource:
        fields = self.fields
        worker = get_worker_info()
        seed = [fields.get("seed", 0), 8, 0 if worker is None else worker.id]
        choose_renderer(fields.get("renderer", "auto"))
        rooms = fields.get("rooms", ROOMS)
        if fields.get("subject") == "hand":
            hand = load_hand(*TRAINING_HANDS, self._beside("cache"))
            hands = HandSampleConfig(occluded=fields.get("occluded", HandSampleConfig().occluded), rooms=rooms)
            return HandSampleMaker(hand, self.mesh, seed, hands)
        bank = load_body_bank(*TRAINING_BANK, self._beside("cache"))
        motions_path = self._beside("motions")
        assert motions_path is not None
        motions = choose(load_motions(motions_path, bank), "", fields.get("exclude", ""))
        config = SampleConfig(occluded=fields.get("occluded", SampleConfig().occluded), rooms=rooms)
        both = [*motions, *(mirror(motion, bank) for motion in motions)]
        return SampleMaker(bank, self.mesh, both, seed, config)

    def _beside(self, name: str) -> Path | None:
        value = self.fields.get(name)
        return None if value is None else self.path.parent / value


def read_description(path: Path) -> dict[str, Any]:
    """The fields of a stream's JSON file. Raises SourceError or ConfigError, see `SyntheticStream`."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot read {path}", expected="a JSON file", got=error) from error
    wrong = not isinstance(fields, dict) or bool(set(fields) - set(FIELDS))
    if wrong or not all(isinstance(fields[name], FIELDS[name]) for name in fields) or not _has_subject(fields):
        expected = "motions, or subject hand without them, and " + ", ".join(
            f"{name} ({kind.__name__})" for name, kind in FIELDS.items()
        )
        raise ConfigError(f"the stream {path}", expected=expected, got=fields)
    return fields


def _has_subject(fields: dict[str, Any]) -> bool:
    is_hand = fields.get("subject", "body") == "hand"
    return fields.get("subject", "body") in ("body", "hand") and is_hand != ("motions" in fields)
