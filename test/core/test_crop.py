import numpy as np
import pytest

from metro_ros.core.crop import Box, box_from_points, crop_image, whole_image_box
from metro_ros.core.errors import ConfigError, ImageError


def test_the_whole_of_a_square_image_at_its_own_size_is_the_image_in_rgb() -> None:
    image = np.random.RandomState(0).randint(0, 256, (96, 96, 3)).astype(np.uint8)
    np.testing.assert_array_equal(crop_image(image, whole_image_box(96, 96), 96), image[..., ::-1])


@pytest.mark.parametrize("size", [40.0, 64.0, 100.3, 200.5, 390.3, 800.0])
def test_crop_pixels_lie_where_the_convention_says(size: float) -> None:
    """A soft spot comes out where Box.to_crop puts it, to a twentieth of a crop pixel."""
    box, side = Box(310.3, 231.6, size), 64
    spot = np.array((box.cx + 0.13 * size, box.cy - 0.17 * size))
    y, x = np.mgrid[:480, :640]
    brightness = 255 * np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / (2 * (size / 30) ** 2))
    image = np.zeros((480, 640, 3), np.uint8)
    image[..., 0] = brightness.round()
    crop = crop_image(image, box, side).astype(float)
    assert not crop[..., :2].any()  # blue comes last in RGB
    pixel_y, pixel_x = np.mgrid[:side, :side]
    found = np.array([(crop[..., 2] * axis).sum() for axis in (pixel_x, pixel_y)]) / crop[..., 2].sum()
    np.testing.assert_allclose((2 * found + 1) / side - 1, box.to_crop(spot), atol=2 * 0.05 / side)


@pytest.mark.parametrize("box", [Box(60, 50, 40.0), Box(60, 50, 150.0), Box(60, 50, 900.0), Box(-500, 50, 100.0)])
def test_a_crop_can_be_written_into_a_row_of_a_batch(box: Box) -> None:
    image = np.random.RandomState(0).randint(0, 256, (96, 120, 3)).astype(np.uint8)
    batch = np.full((3, 64, 64, 3), 99, np.uint8)
    assert np.shares_memory(crop_image(image, box, 64, out=batch[1]), batch)
    np.testing.assert_array_equal(batch[1], crop_image(image, box, 64))
    assert (batch[[0, 2]] == 99).all()
    for place in (batch[1, :32], batch[1].astype(np.float32), np.zeros((64, 128, 3), np.uint8)[:, ::2]):
        with pytest.raises(ImageError, match="place for a crop"):
            crop_image(image, box, 64, out=place)


def test_outside_of_the_image_is_black() -> None:
    image = np.full((100, 200, 3), 255, np.uint8)
    crop = crop_image(image, whole_image_box(200, 100), 64)  # a quarter of bars above and below
    assert (crop[:15] == 0).all() and (crop[-15:] == 0).all()
    assert (crop[17:47, 1:-1] == 255).all()
    assert not crop_image(image, Box(-500, 50, 100), 64).any()
    assert crop_image(image, Box(100, 50, 1e7), 64).max() < 255  # and a huge box costs no huge array


@pytest.mark.parametrize("size", [120.0, 300.0, 512.0, 700.0])
def test_shrinking_averages(size: float) -> None:
    checkers = (np.indices((512, 512)).sum(axis=0) % 2 * 255).astype(np.uint8)
    crop = crop_image(np.repeat(checkers[..., None], 3, axis=2), Box(255.5, 255.5, size), 64)
    inner = crop[10:-10, 10:-10].astype(float)
    assert abs(inner.mean() - 127.5) < 2 and inner.std() < 12  # sampling without a filter would give a std of 127


def test_box_coordinates_are_inverse() -> None:
    box = Box(10.0, 20.0, 50.0)
    np.testing.assert_allclose(box.to_pixels(np.array(((-1, -1), (1, 1)))), ((-15, -5), (35, 45)))
    points = np.random.RandomState(0).standard_normal((5, 2))
    np.testing.assert_allclose(box.to_crop(box.to_pixels(points)), points)


def test_box_from_points_is_square_padded_and_ignores_what_is_not_finite() -> None:
    points = np.array(((10.0, 20), (30, 100), (np.nan, 0), (20, np.inf)))
    assert box_from_points(points, 1.25) == Box(20, 60, 100)
    assert box_from_points(points[:1], 1.25) == Box(10, 20, 1.25)
    with pytest.raises(ConfigError, match="finite"):
        box_from_points(points[2:], 1.25)


@pytest.mark.parametrize("values", [(0, 0, 0), (0, 0, -1), (np.nan, 0, 1), (0, 0, np.inf)])
def test_impossible_boxes(values: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError):
        Box(*values)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), [[1]], None],
)
def test_what_is_no_colour_image(image: np.ndarray) -> None:
    with pytest.raises(ImageError):
        crop_image(image, Box(1, 1, 2), 32)
