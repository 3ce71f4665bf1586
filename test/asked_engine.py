"""An engine that tells what it was asked."""

import numpy as np

from metro_ros.core.engines import Engine, Output


class Asked:
    """Remembers how many crops it was asked about, call by call; the rest is another one's."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.calls = engine, list[int]()

    def infer(self, crops: np.ndarray) -> Output:
        self.calls.append(len(crops))
        return self.engine.infer(crops)
