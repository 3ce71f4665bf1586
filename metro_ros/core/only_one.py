"""The one person in a stream of images of whom nobody says where to look: searched, then followed."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from metro_ros.core.batching import Steps
from metro_ros.core.camera import Camera
from metro_ros.core.crop import Box, whole_image_box
from metro_ros.core.estimator_config import EstimatorConfig
from metro_ros.core.look import Look, Sight, possible_box
from metro_ros.core.track import Track

PARTS = (0.5, 0.3)
"""Sides of the crops that are searched beside the whole image, of its longer side; half of each is the next one's."""
IN_TURN = 5
"""So many of them in each image of a stream."""


class OnlyOne:
    """Whom a stream of images shows, one person at most.

    Searched in a crop of the whole image, and where the model knows how sure it is, in crops of parts of it, too: from
    the surest look on, the crop is re-centred on the projected mesh until it settles. Then it follows the mesh from
    image to image with one look each. The person is lost when there is nobody to be believed any more, see
    `Sight.is_nobody`; then the search starts over in the same image.
    """

    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self.reset()

    def reset(self) -> None:
        """Forget whom it follows."""
        self._track: Track | None = None
        self._box: Box | None = None
        self._turn = 0

    def steps(
        self, image: npt.NDArray[np.uint8], camera: Camera, stamp: float | None, config: EstimatorConfig
    ) -> Steps[list[tuple[Track, Look]]]:
        """Who is in an image, uint8 (H, W, 3) BGR; it pauses wherever the network is asked.

        stamp: None for an image that no other one follows, all of which is searched at once.
        """
        if self._track is not None and self._box is not None:
            (look,) = yield from self._sight.look(image, camera, [self._box], config)
            if not self._sight.is_nobody(look, image, config, followed=True):
                keep, before = config.box_smoothing, self._box
                self._box = Box(
                    cx=keep * before.cx + (1 - keep) * look.box.cx,
                    cy=keep * before.cy + (1 - keep) * look.box.cy,
                    size=keep * before.size + (1 - keep) * look.box.size,
                )
                return [(self._track, look)]
        self._track = self._box = None
        look = yield from self._search(image, camera, stamp is not None, config)
        if self._sight.is_nobody(look, image, config):
            return []
        self._box, self._track = look.box, Track(look, 0.0)
        return [(self._track, look)]

    def _search(
        self, image: npt.NDArray[np.uint8], camera: Camera, in_turn: bool, config: EstimatorConfig
    ) -> Steps[Look]:
        """From the likeliest crop inwards until the box settles on the person that the network sees."""
        height, width = image.shape[:2]
        parts = self._parts(width, height, in_turn)
        looks = yield from self._sight.look(image, camera, [whole_image_box(width, height), *parts], config)
        look = self._sight.surest(looks, image, config)
        for _ in range(config.max_passes - 1):
            if look.change < config.settled:
                break
            (look,) = yield from self._sight.look(image, camera, [possible_box(look.box, image, config)], config)
        return look

    def _parts(self, width: int, height: int, in_turn: bool) -> Sequence[Box]:
        """Those to be searched now; of a model that says of all the same, none."""
        if not self._sight.knows:
            return []
        parts = parts_of(width, height)
        if not in_turn:
            return parts
        turns = range(self._turn, self._turn + IN_TURN)
        self._turn = turns.stop % len(parts)
        return [parts[turn % len(parts)] for turn in turns]


def parts_of(width: int, height: int) -> list[Box]:
    """Squares that cover an image of that size, px, each half over the next, the larger ones first."""
    boxes = []
    for part in PARTS:
        size = part * max(width, height)
        columns, rows = (_middles(side, size) for side in (width, height))
        boxes += [Box(x, y, size) for y in rows for x in columns]
    return boxes


def _middles(side: int, size: float) -> list[float]:
    """Of squares that cover a side of the image."""
    if side <= size:
        return [(side - 1) / 2]
    count = math.ceil((side - size) / (size / 2)) + 1
    return np.linspace((size - 1) / 2, side - (size + 1) / 2, count).tolist()
