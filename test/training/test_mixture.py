"""Mixed datasets: by position, whatever the labels, and damaged rows never stop them."""

import pickle
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from stand_ins import ListDataset, make_sample
from tiny_network import make_mesh
from torch.utils.data import DataLoader

from metro_ros.core.crop import Box
from metro_ros.core.errors import ConfigError, SourceError
from training.datasets.augment import NONE, PAPER_BODY, AugmentConfig
from training.datasets.mixture import Batch, Mixture, Source
from training.datasets.order import PositionSampler
from training.datasets.sample import Sample

MESH = make_mesh((6, 10, 20), joints=4)
NAMES = MESH.joint_names


def picture(value: int, **labels) -> Sample:
    """A flat picture that can be told from others after cropping."""
    return make_sample(
        joint_count=4, image=np.full((8, 8, 3), value, np.uint8), box=Box(3.5, 3.5, 8.0), key=f"{value}", **labels
    )


def mixture(*datasets: Sequence[Sample | None], weights=None, config: AugmentConfig = NONE, **more) -> Mixture:
    sources = [
        Source(ListDataset(samples, NAMES, f"set{number}"), weight)
        for number, (samples, weight) in enumerate(zip(datasets, weights or [1.0] * len(datasets), strict=True))
    ]
    return Mixture(sources, MESH, config, "smooth", 8, **more)


def values(batch: Batch) -> list[int]:
    return [round(float(image.mean())) for image in batch.image]


def take(mix: Mixture, count: int, start: int = 0) -> Batch:
    return mix.collate([mix[position] for position in range(start, start + count)])


def test_a_position_gives_the_same_example_anywhere() -> None:
    mix = mixture([picture(10 * value) for value in range(1, 20)], config=PAPER_BODY, mask_ratio=0.5, seed=3)
    again = pickle.loads(pickle.dumps(mix))
    for position in (11, 3, 0):
        one, other = mix.collate([mix[position]]), again.collate([again[position]])
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.token_mask, other.token_mask)
    assert not torch.equal(take(mix, 1).image, take(mix, 1, start=19).image), "the next epoch changes it otherwise"


def test_loading_processes_keep_the_order() -> None:
    mix = mixture([picture(value) for value in range(1, 100)], [picture(value) for value in range(100, 150)])
    expected = [values(take(mix, 5, start)) for start in (15, 20, 25)]
    loader = iter(DataLoader(mix, batch_sampler=PositionSampler(5, first=3), collate_fn=mix.collate, num_workers=2))
    assert [values(next(loader)) for _ in range(3)] == expected


def test_weights_share_the_positions() -> None:
    mix = mixture([picture(10)] * 3, [picture(200)] * 3, weights=[3.0, 1.0])
    drawn = Counter(values(take(mix, 1024)))
    assert drawn == {10: 768, 200: 256}


def test_labels_that_a_sample_lacks_are_zero_and_said_to_be() -> None:
    vertices, pose = np.ones((10, 3)), np.full(72, 0.5)
    sets = [picture(1, vertices=vertices)], [picture(2, pose=pose)], [picture(3, joints=np.ones((4, 3)))]
    mix = mixture(*sets, pose_size=72)
    batch = take(mix, 30)
    assert batch.vertices is not None and batch.vertices.shape == (30, 10, 3)
    assert batch.pose is not None and batch.betas is not None and batch.mask is None
    for row, value in enumerate(values(batch)):
        assert (batch.has_vertices[row], batch.has_pose[row], batch.has_joints[row]) == (
            value == 1,
            value == 2,
            value == 3,
        )
        assert torch.all(batch.vertices[row] == float(value == 1))
        assert torch.all(batch.pose[row] == 0.5 * (value == 2))
        assert torch.all(batch.joint_confidence[row] == float(value == 3))


def test_poses_that_nothing_can_pose_are_left_out() -> None:
    batch = take(mixture([picture(2, pose=np.ones(72))]), 2)
    assert batch.pose is None and batch.has_pose.tolist() == [0, 0]


def test_labels_are_found_wherever_they_begin() -> None:
    """The first rows of a set may be empty rooms, or known in 2D only."""
    mix = mixture([picture(1)] * 90 + [picture(2, vertices=np.ones((10, 3)))] * 10)
    assert mix.vertex_count == 10 and not take(mix, 100).skipped


def test_damaged_rows_are_named_and_replaced() -> None:
    good = [picture(value) for value in range(1, 8)]
    mix = mixture([good[0], None, *good[1:], None])
    batch = take(mix, 18)
    assert len(batch.skipped) >= 4  # two of nine rows, two epochs
    assert all("row 1" in row or "row 8" in row for row in batch.skipped)
    assert set(values(batch)) <= set(range(1, 8))
    assert values(take(mix, 18)) == values(batch)


def test_a_row_unlike_the_others_is_damaged() -> None:
    samples = [picture(1, vertices=np.ones((10, 3)))] * 60
    samples[1] = picture(2, vertices=np.ones((6, 3)))  # no row that is looked at first
    batch = take(mixture(samples), 60)
    assert set(values(batch)) == {1} and "2: vertices: expected 10, as in other rows, got 6" in batch.skipped


def test_a_set_of_nothing_but_damage_is_refused() -> None:
    with pytest.raises(SourceError, match="set0 is unusable"):
        mixture([None] * 30)
    mix = mixture([picture(1)] + [None] * 40)
    mix.order = lambda position: (0, 5)  # type: ignore[method-assign, assignment]
    mix.sources[0].dataset.samples[0] = None  # type: ignore[attr-defined]
    mix.order.sizes = (41,)  # type: ignore[attr-defined]
    with pytest.raises(SourceError, match="damaged"):
        mix[0]


def test_labels_must_fit_the_mesh_and_each_other() -> None:
    with pytest.raises(ConfigError, match="6 or 10 or 20"):
        mixture([picture(1, vertices=np.ones((7, 3)))])
    with pytest.raises(ConfigError, match="the same number"):
        mixture([picture(1, vertices=np.ones((6, 3)))], [picture(1, vertices=np.ones((10, 3)))])
    with pytest.raises(ConfigError, match="shares no joint"):
        Mixture([Source(ListDataset([picture(1)], ("a", "b", "c", "d")))], MESH, NONE, "smooth", 8)


def test_validation_sees_each_row_once_whatever_the_weights() -> None:
    mix = mixture([picture(1)] * 9, [picture(value) for value in (200, 210)], weights=[1.0, 50.0], in_turn=True)
    assert values(take(mix, len(mix))) == [1] * 9 + [200, 210]


def test_labels_that_no_row_looked_at_first_has_are_left_out() -> None:
    samples = [picture(1)] * 60
    samples[1] = picture(2, vertices=np.ones((10, 3)))
    batch = take(mixture(samples), 60)
    assert batch.vertices is None and not batch.skipped and 2 in values(batch)


def test_masks_are_drawn_for_each_sample() -> None:
    mix = mixture([picture(value) for value in range(1, 200)], mask_ratio=0.5)
    hidden = 1 - take(mix, 199).token_mask.mean(dim=(1, 2))
    assert 0.1 < float(hidden.mean()) < 0.25 and len(hidden.unique()) > 3
    assert torch.all(take(mixture([picture(1)]), 1).token_mask == 1)
