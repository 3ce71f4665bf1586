"""Batches changed on the device say of their pictures what single samples changed by `prepare` say of theirs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import NAMES, find_dot, make_dense, make_sample
from tiny_network import make_mesh

from metro_ros.core.crop import whole_image_box
from metro_ros.core.errors import ConfigError
from training.datasets.augment import DEFAULT, NONE
from training.datasets.joints import JointSelection
from training.datasets.mixture import Batch, Mixture, Source
from training.datasets.prepare import prepare
from training.datasets.sample import Sample
from training.device_augment import CameraChanges, augment, pack
from training.mesh_spec import MeshSpec

SIZE = 64
PLAIN = CameraChanges(hidden=0.0, toned=0.0, grey=0.0, soft=0.0, noisy=0.0)
MESH = replace(make_mesh(joints=4), joint_names=NAMES)


class _Listed:
    """A dataset of given samples."""

    def __init__(self, samples: list[Sample]) -> None:
        self.name, self.joint_names, self.samples = "listed", NAMES, samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def crop_sample(seed: int, **changes) -> Sample:
    """The image is the crop, as of a renderer."""
    rng = np.random.default_rng(100 + seed)
    smooth = np.kron(rng.integers(30, 226, (8, 8, 3)), np.ones((SIZE // 8, SIZE // 8, 1))).astype(np.uint8)
    vertices = rng.normal(size=(10, 3)).astype(np.float32)
    given = {"image": smooth, "box": whole_image_box(SIZE, SIZE), "dense": make_dense(seed), "vertices": vertices}
    return make_sample(seed, width=SIZE, height=SIZE, **{**given, **changes})


def batch_of(samples: list[Sample]) -> Batch:
    mixture = Mixture([Source(_Listed(samples))], MESH, NONE, "smooth", SIZE, in_turn=True)
    return mixture.collate([mixture[row] for row in range(len(samples))])


def changed(samples: list[Sample], config=NONE, camera=PLAIN, mesh: MeshSpec = MESH, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return augment(pack(batch_of(samples)), mesh, config, camera, 0.3, generator, position=7)


def test_nothing_changes_where_nothing_may() -> None:
    samples = [crop_sample(seed) for seed in range(3)]
    before, after = batch_of(samples), changed(samples)
    assert (after.first, after.token_mask.shape) == (7, (3, MESH.token_count, 1))
    torch.testing.assert_close(after.image, before.image, atol=1e-2, rtol=0)
    torch.testing.assert_close(after.mask, before.mask, atol=3e-3, rtol=0)  # a byte a cell
    torch.testing.assert_close(after.surface, before.surface, atol=1e-3, rtol=0)  # half floats
    for name in ("keypoints", "keypoint_confidence", "joints", "joint_confidence", "vertices", "person", "has_dense"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), msg=name)


def test_turn_and_scale_are_those_of_single_samples() -> None:
    """Every sample turns by plus or minus 20 degrees, and its box grows by a tenth."""
    samples = [crop_sample(seed) for seed in range(6)]
    config = replace(NONE, rotation_deg=180.0, rotation_limit_deg=20.0, upright=0.0, scale=1.0, scale_limits=(1.1, 1.1))
    after = changed(samples, config)
    selection = JointSelection.between(NAMES, NAMES)
    ways = []
    for index, sample in enumerate(samples):
        options = []
        for degrees in (20.0, -20.0):
            rng = _Scripted(degrees)
            options.append(prepare(sample, selection, config, "smooth", SIZE, rng))  # type: ignore[arg-type]
        distances = [np.abs(option.keypoints - after.keypoints[index].numpy()).max() for option in options]
        way = int(np.argmin(distances))
        ways.append(way)
        wanted = options[way]
        for name in ("keypoints", "keypoint_confidence", "joints", "vertices"):
            np.testing.assert_allclose(getattr(after, name)[index], getattr(wanted, name), atol=2e-5, err_msg=name)
        middle = slice(SIZE // 4, 3 * SIZE // 4)  # beyond the old crop it is mirrored here, black there
        difference = np.abs(after.image[index].numpy() - wanted.image)[middle, middle]
        assert difference.mean() < 3.0 and np.median(difference) < 2.0
        cells = slice(4, 12)
        np.testing.assert_allclose(after.mask[index][cells, cells], wanted.mask[cells, cells], atol=0.02)
        np.testing.assert_allclose(after.surface[index][:, cells, cells], wanted.surface[:, cells, cells], atol=0.02)
    assert set(ways) == {0, 1}


class _Scripted:
    """A generator whose draws turn by so many degrees or more and change nothing else."""

    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def standard_normal(self, count: int) -> np.ndarray:
        return np.array([np.sign(self.degrees), 0.0])

    def random(self, count: int) -> np.ndarray:
        return np.full(count, 0.5)

    def permutation(self, count: int) -> np.ndarray:
        return np.arange(count)


def test_keypoints_stay_on_what_they_mark() -> None:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    light = 250 * np.exp(-((columns - 36) ** 2 + (rows - 28) ** 2) / 18.0)
    image = np.repeat(light.astype(np.uint8)[..., None], 3, axis=2)
    points = np.full((4, 2), (36, 28), np.float32)  # near the middle: no mirror image of it in sight
    samples = [crop_sample(seed, image=image, keypoints_px=points) for seed in range(12)]
    config = replace(NONE, rotation_deg=40.0, rotation_limit_deg=90.0, upright=0.2, scale=0.05)
    after = changed(samples, config)
    assert len({tuple(row) for row in after.keypoints[:, 0].tolist()}) > 8
    for picture, keypoints in zip(after.image, after.keypoints, strict=True):
        np.testing.assert_allclose(find_dot(picture.numpy()), keypoints[0], atol=0.02)


def test_what_is_hidden_leaves_the_mask_and_nothing_else() -> None:
    samples = [crop_sample(seed) for seed in range(16)]
    before, after = batch_of(samples), changed(samples, camera=replace(PLAIN, hidden=1.0))
    known = before.mask > 0.2
    covered = 1.0 - after.mask / before.mask.clamp(min=0.2)
    assert 0.02 < covered[known].mean() < 0.6
    differs = (after.image - before.image).abs().amax(dim=3) > 1.0
    hidden = torch.nn.functional.interpolate(differs[:, None].float(), (16, 16), mode="area")[:, 0]
    assert (covered[known & (hidden == 0)] < 0.03).all()
    assert (covered[known & (hidden > 0.99)] > 0.97).float().mean() > 0.95
    torch.testing.assert_close(after.keypoint_confidence, before.keypoint_confidence)
    assert torch.isfinite(after.image).all()


def test_colours_stay_in_range_and_black_stays_black() -> None:
    image = crop_sample(0).image.copy()
    image[:, :20] = 0  # beyond the camera's image
    samples = [crop_sample(seed, image=image) for seed in range(8)]
    everything = CameraChanges(hidden=0.0, toned=1.0, grey=0.2, soft=1.0, noisy=1.0)
    after = changed(samples, replace(DEFAULT, rotation_deg=0.0, scale=0.0), everything)
    assert (after.image[:, :, :20] == 0).all()
    assert after.image.min() >= 0 and after.image.max() <= 255
    apart = (after.image[:, :, 24:] - torch.from_numpy(image[:, 24:]).float()).abs().mean(dim=(1, 2, 3))
    assert (apart > 2.0).all()


def test_the_same_generator_gives_the_same_batch() -> None:
    samples = [crop_sample(seed) for seed in range(3)]
    one, same, other = (changed(samples, DEFAULT, CameraChanges(), seed=seed) for seed in (1, 1, 2))
    torch.testing.assert_close(one.image, same.image)
    torch.testing.assert_close(one.token_mask, same.token_mask)
    assert not torch.equal(one.image, other.image)


def test_mirrors_and_poses_are_refused() -> None:
    with pytest.raises(ConfigError, match="flip"):
        changed([crop_sample(0)], replace(NONE, flip=0.5))
    posed = batch_of([crop_sample(0)])._replace(pose=torch.zeros(1, 72))
    with pytest.raises(ConfigError, match="poses"):
        pack(posed)
    with pytest.raises(ConfigError, match="hidden"):
        CameraChanges(hidden=2.0)
