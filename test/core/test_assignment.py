import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from metro_ros.core.assignment import assign


def total(cost: np.ndarray, pairs: list[tuple[int, int]], limit: float) -> float:
    return sum(cost[pair] for pair in pairs) + limit * (len(cost) - len(pairs))


@pytest.mark.parametrize("limit", [0.3, 0.7, 2.0])
def test_it_is_as_cheap_as_scipys(limit: float) -> None:
    random = np.random.RandomState(0)
    for trial in range(100):
        cost = random.random_sample(random.randint(1, 9, 2))
        cost = cost.round(1) if trial % 2 else cost  # ties
        pairs = assign(cost, limit)
        alone = np.concatenate((np.minimum(cost, limit), np.full((len(cost), len(cost)), limit)), axis=1)
        assert total(cost, pairs, limit) == pytest.approx(alone[linear_sum_assignment(alone)].sum())
        assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
        assert all(cost[pair] < limit for pair in pairs)


def test_what_cannot_be_is_not_made() -> None:
    assert assign(np.array(((np.inf, np.nan), (0.5, 1.0))), 1.0) == [(1, 0)]
    for shape in ((0, 3), (3, 0), (0, 0)):
        assert assign(np.zeros(shape), 1.0) == []
