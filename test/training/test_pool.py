"""The pool of rendered rows: the newest are kept whole, and a source that fails is said."""

import itertools
from collections.abc import Iterator

import pytest
import torch

from metro_ros.core.errors import SourceError
from training.pool import Pool


def _rows(*numbers: int) -> dict[str, torch.Tensor]:
    """Two fields that say the same number."""
    values = torch.tensor(numbers)
    return {"image": values.to(torch.uint8).reshape(-1, 1, 1).expand(-1, 2, 3), "number": values}


def _until(pool: Pool, arrived: int) -> None:
    while pool.arrived < arrived and pool._error is None:
        pool._thread.join(0.01)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_new_rows_take_the_place_of_the_oldest() -> None:
    def source() -> Iterator[dict[str, torch.Tensor]]:
        for start in (0, 3, 6):
            yield _rows(start, start + 1, start + 2)
        raise ValueError("no more")

    pool = Pool(source(), 5, "cpu")
    with pool:
        _until(pool, 9)
    assert pool.arrived == 9 and len(pool) == 5
    assert sorted(pool._fields["number"].tolist()) == [4, 5, 6, 7, 8]


def test_fields_of_a_row_stay_together_and_the_seed_chooses_the_rows() -> None:
    source = (_rows(*range(start, start + 4)) for start in itertools.cycle(range(0, 200, 4)))
    finite = Pool([_rows(*range(8)), _rows(*range(8, 16))], 16, "cpu")
    with Pool(source, 30, "cpu") as pool:
        pool.wait_for(20)
        rows = pool.draw(40, _generator())
        assert rows["image"].shape == (40, 2, 3) and rows["image"].dtype == torch.uint8
        assert (rows["image"] == rows["number"][:, None, None]).all()
        assert len(rows["number"].unique()) > 5
    finite._put(_rows(*range(16)))  # nothing comes meanwhile
    one, same, another = (finite.draw(12, _generator(seed))["number"] for seed in (3, 3, 4))
    assert torch.equal(one, same) and not torch.equal(one, another)


def test_a_wait_for_more_than_fits_ends_when_it_is_full() -> None:
    with Pool((_rows(1, 2) for _ in itertools.count()), 4, "cpu") as pool:
        pool.wait_for(100)
        assert len(pool) == 4


def test_an_empty_pool_says_so() -> None:
    with pytest.raises(SourceError, match="the pool is empty"):
        Pool([], 4, "cpu").draw(1, _generator())


def _failing() -> Iterator[dict[str, torch.Tensor]]:
    yield _rows(1, 2)
    raise ValueError("the painter is ill")


@pytest.mark.parametrize(("source", "why"), [(_failing(), "the painter is ill"), ([_rows(1, 2)], "ended")])
def test_a_source_that_fails_or_ends_is_said_to_who_asks_next(source: object, why: str) -> None:
    with Pool(source, 8, "cpu") as pool:  # type: ignore[arg-type]
        with pytest.raises(SourceError, match=why):
            pool.wait_for(3)
        with pytest.raises(SourceError, match=why):
            pool.draw(1, _generator())
