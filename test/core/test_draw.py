from dataclasses import replace

import numpy as np
import pytest
from tiny_bundle import RADII_M, tiny_mesh

from metro_ros.core.camera import Camera
from metro_ros.core.crop import Box
from metro_ros.core.draw import contact_sheet, draw_people, person_color, silhouette
from metro_ros.core.errors import ImageError
from metro_ros.core.estimator import Person
from metro_ros.core.raster import covered_pixels
from metro_ros.core.skeleton import BODY_17

CAMERA = Camera(320, 240, np.array(((300.0, 0, 160), (0, 300, 120), (0, 0, 1))))
MESH = tiny_mesh()
GREY = np.full((240, 320, 3), 90, np.uint8)


def person(identity: int, x: float, z: float) -> Person:
    translation = np.array((x, -0.1, z), np.float32)
    joints = (MESH["joint_regressor"] @ MESH["template"] + translation).astype(np.float32)
    return Person(identity, 1.0, Box(0, 0, 1), joints, MESH["template"] + translation, translation, "camera", None)


def brute_force(triangle: np.ndarray, width: int, height: int) -> np.ndarray:
    """Which pixel centres lie in a triangle: inside when on the same side of all edges, one pixel at a time."""
    mask = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            sides = []
            for start, end in zip(triangle, np.roll(triangle, -1, axis=0), strict=True):
                sides.append((end[0] - start[0]) * (y - start[1]) - (end[1] - start[1]) * (x - start[0]))
            mask[y, x] = min(sides) >= 0 or max(sides) <= 0
    return mask


@pytest.mark.parametrize("scale", [1.0, 4.0, 15.0, 60.0])
def test_pixels_are_covered_as_by_brute_force(scale: float) -> None:
    random = np.random.RandomState(int(scale))
    triangles = random.uniform(-4, 36, (12, 1, 2)) + random.standard_normal((12, 3, 2)) * scale
    pixels, owners = covered_pixels(triangles, 32, 24)
    for index, triangle in enumerate(triangles):
        found = np.zeros(32 * 24, bool)
        found[pixels[owners == index]] = True
        np.testing.assert_array_equal(found.reshape(24, 32), brute_force(triangle, 32, 24))


def test_corners_and_edges_belong_to_both_neighbours() -> None:
    square = np.array((((2.0, 2), (6, 2), (6, 6)), ((2, 2), (6, 6), (2, 6))))
    pixels, _ = covered_pixels(square, 10, 10)
    assert set(pixels.tolist()) == {y * 10 + x for y in range(2, 7) for x in range(2, 7)}


def test_what_has_no_area_or_no_numbers_covers_nothing() -> None:
    line = ((1.0, 1), (5, 5), (3, 3))
    nan = ((1.0, 1), (5, np.nan), (3, 9))
    infinite = ((1.0, 1), (np.inf, 5), (3, 9))
    outside = ((100.0, 1), (105, 5), (103, 9))
    for triangle in (line, nan, infinite, outside):
        assert len(covered_pixels(np.array((triangle,)), 10, 10)[0]) == 0


def test_the_silhouette_of_an_ellipsoid_is_an_ellipse() -> None:
    vertices = MESH["template"] - MESH["template"].mean(axis=0) + np.float32((0, 0, 5))
    found = silhouette(vertices, MESH["faces_2"], CAMERA)
    y, x = np.mgrid[:240, :320]
    ideal = ((x - 160) / (RADII_M[0] * 60)) ** 2 + ((y - 120) / (RADII_M[1] * 60)) ** 2 <= 1
    assert (found & ~ideal).sum() < 0.02 * ideal.sum()
    assert (found & ideal).sum() > 0.95 * ideal.sum()


def test_faces_behind_the_camera_are_left_out() -> None:
    behind = MESH["template"] - np.float32((0, 0, 3))
    assert not silhouette(behind, MESH["faces_2"], CAMERA).any()


def test_only_the_person_is_painted_in_its_colour() -> None:
    image = GREY.copy()
    somebody = person(1, 0.3, 5)
    picture = draw_people(image, [somebody], CAMERA, MESH["faces_2"], BODY_17, opacity=1)
    assert (image == 90).all()  # the input is not drawn on
    mask = silhouette(somebody.vertices, MESH["faces_2"], CAMERA)
    around = np.ones_like(mask)
    rows, columns = np.nonzero(mask)
    around[rows.min() - 4 : rows.max() + 5, columns.min() - 4 : columns.max() + 5] = False
    assert (picture[around] == 90).all()
    assert (picture[mask] != 90).any(axis=-1).mean() > 0.99
    # Every shade is the person's colour, darker: the ratio of the channels stays.
    color = np.median(picture[mask], axis=0) / person_color(1)
    assert np.ptp(color) < 0.05 and 0.3 < color.mean() <= 1


def test_the_nearer_person_hides_the_farther() -> None:
    near, far = person(1, 0, 3), person(2, 0, 6)
    for order in ([near, far], [far, near]):
        picture = draw_people(GREY, order, CAMERA, MESH["faces_2"], BODY_17, opacity=1)
        x, y = CAMERA.project(near.vertices.mean(axis=0, keepdims=True))[0].round().astype(int)
        patch = np.median(picture[y - 6 : y + 6, x + 3 : x + 7].reshape(-1, 3), axis=0) / person_color(1)
        assert np.ptp(patch) < 0.05


def test_nearer_faces_hide_farther_ones_and_backs_are_not_painted() -> None:
    square = np.array(((-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)), np.float32)
    tilted = square * (1, 1, 0) + np.float32((0, 0, 1)) * square[:, :1] * 0.5  # catches less light
    somebody = person(1, 0, 5)
    vertices = np.concatenate((square + np.float32((0, 0, 3)), tilted + np.float32((0, 0, 5))))
    somebody = replace(somebody, vertices=vertices.astype(np.float32), joints=somebody.joints * np.nan)
    towards = np.array(((0, 2, 1), (0, 3, 2)), np.int32)

    def color(faces: np.ndarray) -> list[int]:
        return draw_people(GREY, [somebody], CAMERA, faces, BODY_17, opacity=1)[120, 163].tolist()

    near, far = color(towards), color(towards + 4)
    assert near != far and 90 not in (near[0], far[0])
    for faces in ((towards, towards + 4), (towards + 4, towards)):
        assert color(np.concatenate(faces)) == near
    assert color(towards[:, ::-1]) == [90, 90, 90]


def test_opacity_mixes_and_rows_choose_a_level() -> None:
    somebody = person(1, 0, 5)
    clear = draw_people(GREY, [somebody], CAMERA, MESH["faces_2"], BODY_17, opacity=0)
    mixed = draw_people(GREY, [somebody], CAMERA, MESH["faces_2"], BODY_17, opacity=0.5)
    solid = draw_people(GREY, [somebody], CAMERA, MESH["faces_2"], BODY_17, opacity=1)
    joints_only = (clear != GREY).any(axis=-1)
    assert 0 < joints_only.sum() < 0.5 * (solid != GREY).any(axis=-1).sum()
    np.testing.assert_allclose(
        mixed[~joints_only], (GREY[~joints_only] + solid[~joints_only].astype(float)) / 2, atol=1
    )
    coarse = draw_people(GREY, [somebody], CAMERA, MESH["faces_0"], BODY_17, rows=MESH["rows_0"], opacity=1)
    mask = silhouette(somebody.vertices[MESH["rows_0"]], MESH["faces_0"], CAMERA)
    assert mask.sum() < silhouette(somebody.vertices, MESH["faces_2"], CAMERA).sum()
    assert ((coarse != GREY).any(axis=-1) | ~mask).all()


def test_a_person_behind_the_camera_is_not_drawn() -> None:
    np.testing.assert_array_equal(draw_people(GREY, [person(1, 0, -4)], CAMERA, MESH["faces_2"], BODY_17), GREY)


def test_colours_of_neighbouring_ids_differ() -> None:
    """Sixteen people in a row, whatever the first one's id."""
    for first in (1, 1000):
        colors = np.array([person_color(identity) for identity in range(first, first + 16)], float)
        apart = np.abs(colors[:, None] - colors).max(axis=-1) + 255 * np.eye(16)
        assert apart.min() > 10 and colors.min() > 60


def test_contact_sheet_keeps_order_and_shape() -> None:
    images = [np.full((48, 64, 3), 40 * index + 20, np.uint8) for index in range(5)]
    sheet = contact_sheet(images, columns=3, cell_width=32)
    assert sheet.shape == (2 * 24, 3 * 32, 3)
    for index in range(5):
        cell = sheet[index // 3 * 24 : index // 3 * 24 + 24, index % 3 * 32 : index % 3 * 32 + 32]
        assert (cell == 40 * index + 20).all()
    assert not sheet[24:, 64:].any()


def test_contact_sheet_fits_another_shape_into_its_cell() -> None:
    sheet = contact_sheet([np.full((48, 64, 3), 200, np.uint8), np.full((64, 32, 3), 100, np.uint8)], 2, 64)
    assert sheet.shape == (48, 128, 3)
    assert (sheet[:, 64 + 20 : 64 + 44] == 100).all() and not sheet[:, 64:80].any()
    with pytest.raises(ImageError):
        contact_sheet([])
