"""Joint names, their tree, and what follows from them."""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from metro_ros.core.errors import ConfigError

Side = Literal["left", "right", "middle"]

J14 = (
    "R_Ankle",
    "R_Knee",
    "R_Hip",
    "L_Hip",
    "L_Knee",
    "L_Ankle",
    "R_Wrist",
    "R_Elbow",
    "R_Shoulder",
    "L_Shoulder",
    "L_Elbow",
    "L_Wrist",
    "Neck",
    "Head",
)
"""The fourteen joints of METRO in token order; MPJPE is reported on these."""

HIPS = ("R_Hip", "L_Hip")
"""Their mean, the mid-hip, is the root of every body that the networks predict."""


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Joint names and, for each, the index of its parent; -1 marks a root.

    Raises ConfigError when names repeat, lengths differ, or the parents do not form a forest.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "parents", tuple(int(parent) for parent in self.parents))
        count = len(self.names)
        if len(set(self.names)) != count or not all(self.names):
            raise ConfigError("joint names must differ and not be empty", got=self.names)
        if len(self.parents) != count:
            raise ConfigError("every joint needs a parent", expected=f"{count} parents", got=len(self.parents))
        for joint, name in enumerate(self.names):
            ancestor, steps = joint, 0
            while ancestor != -1:
                if not -1 <= self.parents[ancestor] < count:
                    raise ConfigError(
                        "joint parent out of range", expected=f"-1..{count - 1}", got=self.parents[ancestor]
                    )
                ancestor, steps = self.parents[ancestor], steps + 1
                if steps > count:
                    raise ConfigError(f"joint {name} is its own ancestor", expected="a tree", got=self.parents)

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Index of the joint called `name`. Raises ConfigError when there is none."""
        try:
            return self.names.index(name)
        except ValueError:
            raise ConfigError("unknown joint", expected=f"one of {', '.join(self.names)}", got=name) from None

    def find(self, name: str) -> int:
        """Index of the joint that a person calls `name`: in any case, ``right_wrist`` or ``Wrist R`` for ``R_Wrist``.

        Raises ConfigError when there is none.
        """
        wanted = _words(name)
        if name not in self.names and wanted:
            name = next((known for known in self.names if _words(known) == wanted), name)
        return self.index(name)

    def bones(self) -> list[tuple[int, int]]:
        """(parent, child) indices of every bone, in the order of the children."""
        return [(parent, child) for child, parent in enumerate(self.parents) if parent >= 0]

    @property
    def sides(self) -> tuple[Side, ...]:
        """The body side of each joint, from the prefix of its name (``L_``, ``R_``)."""
        return tuple("left" if n.startswith("L_") else "right" if n.startswith("R_") else "middle" for n in self.names)

    def indices(self, names: tuple[str, ...]) -> list[int]:
        """Indices of several joints, to select e.g. `J14` from an array. Raises ConfigError when one is unknown."""
        return [self.index(name) for name in names]

    def root(self, joints: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """What predictions are relative to: joints (..., J, 3) → (..., 3), same unit and frame.

        The mid-hip where there are hips, else the mean of the joints without a parent: a hand's wrist.
        """
        has_hips = set(HIPS) <= set(self.names)
        rows = self.indices(HIPS) if has_hips else [joint for joint, parent in enumerate(self.parents) if parent < 0]
        return joints[..., rows, :].mean(axis=-2)


def _words(name: str) -> list[str]:
    """The words of a joint's name, sides as one letter, in the order of the alphabet."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]
    return sorted({"left": "l", "right": "r"}.get(word, word) for word in words)


BODY_17 = Skeleton(
    names=(*J14, "Pelvis", "Torso", "Nose"),
    #        ankle knee hip | hip knee ankle | wrist elbow shoulder | shoulder elbow wrist | neck head pelvis torso nose
    parents=(1, 2, 14, 14, 3, 4, 7, 8, 12, 12, 9, 10, 15, 12, -1, 14, 13),
)
"""The joints of the default model: J14 first, then three that complete the tree."""
