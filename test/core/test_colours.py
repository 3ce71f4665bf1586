"""What people wear: colours along their bones, compared and remembered."""

import numpy as np
import pytest

from metro_ros.core.colours import blend, bone_colours, difference

PARENTS = (-1, 0, 1, 0)
JOINTS = np.array([[10.0, 10.0], [30.0, 10.0], [30.0, 40.0], [10.0, 60.0]])


def _image() -> np.ndarray:
    """Red along the first bone, green along the second, blue along the third."""
    image = np.full((48, 40, 3), 100, np.uint8)
    image[8:13, 12:28] = (0, 0, 255)
    image[14:38, 28:33] = (0, 255, 0)
    image[14:, 8:13] = (255, 0, 0)
    return image


def test_each_bone_has_the_colour_of_what_lies_along_it() -> None:
    colours = bone_colours(_image(), JOINTS, PARENTS)
    assert colours.dtype == np.float32 and colours.shape == (3, 3)
    np.testing.assert_allclose(colours[:2], [[0, 0, 1], [0, 1, 0]])
    assert np.isnan(colours[2]).all(), "it leaves the image"


@pytest.mark.parametrize("place", [(np.nan, np.nan), (1e9, -1e9), (-30, 20)])
def test_joints_that_are_nowhere_have_no_colour(place: tuple[float, float]) -> None:
    joints = JOINTS.copy()
    joints[1] = place
    colours = bone_colours(_image(), joints, PARENTS)
    assert np.isnan(colours).all()


def test_the_very_edge_is_in_the_image() -> None:
    corner = np.array([[0.0, 0.0], [39.4, 47.4]])
    assert np.isfinite(bone_colours(_image(), corner, (-1, 0))).all()


def test_difference_is_the_median_of_what_both_show() -> None:
    one, other = np.zeros((5, 3), np.float32), np.zeros((5, 3), np.float32)
    other[:, 0] = (0.1, 0.2, 0.3, 1.0, np.nan)
    assert difference(one, other) == pytest.approx(0.25)
    other[2:] = np.nan
    assert np.isnan(difference(one, other)), "two bones are too few"


def test_blending_moves_slowly_and_fills_what_was_unknown() -> None:
    known = np.array([[0.0] * 3, [1.0] * 3, [np.nan] * 3, [np.nan] * 3], np.float32)
    shown = np.array([[1.0] * 3, [np.nan] * 3, [0.5] * 3, [np.nan] * 3], np.float32)
    moved = blend(known, shown, 0.1)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved[:, 0], [0.1, 1.0, 0.5, np.nan])
