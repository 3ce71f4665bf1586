"""The order of samples: known by position, fair by weight, whole by epoch."""

from collections import Counter
from itertools import islice

import pytest

from metro_ros.core.errors import ConfigError
from training.datasets.order import BLOCK, InTurn, MixOrder, PositionSampler


def test_one_dataset_is_walked_through_in_whole_shuffled_epochs() -> None:
    order = MixOrder([300], [1.0], seed=4)
    epochs = [[order(position)[1] for position in range(start, start + 300)] for start in (0, 300, 3000)]
    for rows in epochs:
        assert sorted(rows) == list(range(300))
    assert epochs[0] != epochs[1] != epochs[2] != list(range(300))


def test_weights_hold_in_every_block() -> None:
    order = MixOrder([5000, 40, 700], [5.0, 3.0, 2.0], seed=0)
    for block in range(3):
        drawn = Counter(order(position)[0] for position in range(block * BLOCK, (block + 1) * BLOCK))
        assert [drawn[dataset] / BLOCK for dataset in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.002)


def test_every_row_of_a_mix_is_seen_equally_often() -> None:
    sizes = (50, 30)
    order = MixOrder(sizes, [0.7, 0.3], seed=1)
    seen = Counter(order(position) for position in range(4 * BLOCK))
    for dataset, size in enumerate(sizes):
        times = [seen[dataset, row] for row in range(size)]
        assert max(times) - min(times) <= 2


def test_a_position_needs_no_predecessors() -> None:
    order = MixOrder([500, 90], [1, 2], seed=3)
    walked = [order(position) for position in range(2 * BLOCK)]
    for position in (1700, 5, 1030, 2047, 0):
        assert MixOrder([500, 90], [1, 2], seed=3)(position) == walked[position]
    assert [MixOrder([500, 90], [1, 2], seed=4)(position) for position in range(20)] != walked[:20]


@pytest.mark.parametrize(
    ("sizes", "weights"), [([], []), ([5, 0], [1, 1]), ([5], [1, 1]), ([5, 5], [1, 0]), ([5], [float("nan")])]
)
def test_impossible_mixes_are_refused(sizes: list[int], weights: list[float]) -> None:
    with pytest.raises(ConfigError):
        MixOrder(sizes, weights, seed=0)


def test_processes_share_what_one_would_accumulate() -> None:
    alone = list(islice(PositionSampler(batch=4), 6))
    together = [list(islice(PositionSampler(batch=4, rank=rank, world=2), 3)) for rank in range(2)]
    assert alone == [batch for pair in zip(*together, strict=True) for batch in pair]
    assert [position for batch in alone for position in batch] == list(range(24))


def test_an_interrupted_order_goes_on() -> None:
    whole = list(islice(PositionSampler(3, rank=1, world=2), 9))
    assert list(islice(PositionSampler(3, rank=1, world=2, first=5), 4)) == whole[5:]


def test_validation_takes_every_row_of_every_set_once() -> None:
    order = InTurn([4, 1, 3])
    assert [order(position) for position in range(8)] == [
        *((0, row) for row in range(4)), (1, 0), *((2, row) for row in range(3))
    ]  # fmt: skip
