"""Batching: crops that several images ask for at the same time share the calls of one engine."""

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from metro_ros.core.crop import Box, crop_image
from metro_ros.core.engines import Engine, Output
from metro_ros.core.engines.base import concatenate

T = TypeVar("T")


class View(NamedTuple):
    """A crop for the network: `box` of `image`, uint8 (H, W, 3) BGR; mirrored: with left and right swapped."""

    image: npt.NDArray[np.uint8]
    box: Box
    mirrored: bool = False


Steps = Generator[Sequence[View], Output, T]
"""Work on one image: yields one or more views, is sent the network's answer, one row a view, and returns its result."""


def run_together(
    steps: Sequence[Steps[T]], engine: Engine, size: int, max_batch: int
) -> Iterator[tuple[int, T | Exception]]:
    """Run all `steps` in lockstep: what they ask for at the same time goes to the engine in one batch.

    size: of the crops, pixels; max_batch: crops in one call of the engine, at most. Yields (index into `steps`, result)
    as soon as each is done. What fails, fails alone, and its result is the exception: when a batch fails, each of those
    who share it is asked about by itself.
    """
    asked: dict[int, Sequence[View]] = {}
    answers: Mapping[int, Output | Exception | None] = dict.fromkeys(range(len(steps)))
    while answers:
        for index, answer in answers.items():
            try:
                if isinstance(answer, Exception):
                    asked[index] = steps[index].throw(answer)
                else:
                    asked[index] = steps[index].send(answer)  # type: ignore[arg-type]  # None starts it
            except StopIteration as end:
                yield index, end.value
            except Exception as error:
                yield index, error
        answers, asked = _answer(asked, engine, size, max_batch), {}


def _answer(
    asked: Mapping[int, Sequence[View]], engine: Engine, size: int, max_batch: int
) -> dict[int, Output | Exception]:
    """What the network says to each one's views, or why it says nothing."""
    rows = [(index, view) for index, views in asked.items() for view in views]
    batch = np.empty((min(len(rows), max_batch), size, size, 3), np.uint8)
    parts: dict[int, list[Output | Exception]] = {index: [] for index in asked}
    for start in range(0, len(rows), max_batch):
        for index, part in _infer(rows[start : start + max_batch], engine, batch):
            parts[index].append(part)
    return {index: _joined(outputs) for index, outputs in parts.items()}


def _infer(
    rows: Sequence[tuple[int, View]], engine: Engine, batch: npt.NDArray[np.uint8]
) -> Iterator[tuple[int, Output | Exception]]:
    """Each one's part of one call; of a call of its own when that one fails."""
    counts = Counter(index for index, _ in rows)
    try:
        for crop, (_, view) in zip(batch, rows, strict=False):
            crop_image(view.image, view.box, len(crop), out=crop)
            if view.mirrored:
                crop[:] = crop[:, ::-1]
        output: Output | Exception = engine.infer(batch[: len(rows)])
    except Exception as error:
        output = error
    if isinstance(output, Exception) and len(counts) > 1:
        for one in counts:
            yield from _infer([row for row in rows if row[0] == one], engine, batch)
        return
    start = 0
    for index, count in counts.items():
        yield index, output if isinstance(output, Exception) else output.rows(start, start + count)
        start += count


def _joined(parts: list[Output | Exception]) -> Output | Exception:
    """The parts of several calls as one, or the first failure."""
    outputs = [part for part in parts if not isinstance(part, Exception)]
    if len(outputs) < len(parts):
        return next(part for part in parts if isinstance(part, Exception))
    return outputs[0] if len(outputs) == 1 else concatenate(outputs)
