from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from metro_ros.core.camera import Camera, solve_translation, weak_perspective_px
from metro_ros.core.crop import Box
from metro_ros.core.errors import CameraError

MATRIX = np.array(((520.0, 0, 322), (0, 510, 238), (0, 0, 1)))
LENSES = {
    "none": [],
    "plumb_bob": [-0.3, 0.1, 0.001, 0.002, -0.01],
    "rational_polynomial": [0.5, 0.1, 0.001, -0.001, 0.01, 0.8, 0.2, 0.03],
    "equidistant": [0.01, 0.002, -0.003, 0.001],
}


def camera_with(model: str) -> Camera:
    return Camera(640, 480, MATRIX, LENSES[model], model)


def body(seed: int = 0, count: int = 100) -> np.ndarray:
    return np.random.RandomState(seed).uniform(-1, 1, (count, 3)) * (0.5, 0.9, 0.3)


@pytest.mark.parametrize("model", LENSES)
def test_projection_is_that_of_opencv(model: str) -> None:
    camera = camera_with(model)
    points = body() + np.array((0.4, 0.2, 3.0))
    if model == "equidistant":
        reference, _ = cv2.fisheye.projectPoints(
            points[:, None], np.zeros(3), np.zeros(3), camera.matrix, camera.distortion
        )
    else:
        distortion = camera.distortion if len(camera.distortion) else None
        reference, _ = cv2.projectPoints(points[:, None], np.zeros(3), np.zeros(3), camera.matrix, distortion)
    np.testing.assert_allclose(camera.project(points), reference[:, 0], atol=1e-9)


@pytest.mark.parametrize("model", LENSES)
def test_normalize_inverts_project_to_the_corners(model: str) -> None:
    camera = camera_with(model)
    pixels = np.array(((0.0, 0), (639, 0), (0, 479), (639, 479), (322, 238), (100, 300)))
    rays = camera.normalize(pixels)
    np.testing.assert_allclose(camera.project(np.column_stack((rays, np.ones(6))) * 2.5), pixels, atol=1e-3)


def test_skew_is_undone() -> None:
    camera = Camera(640, 480, MATRIX + np.array(((0, 30, 0), (0, 0, 0), (0, 0, 0))))
    pixels = np.array(((0.0, 0), (639, 479)))
    rays = camera.normalize(pixels)
    np.testing.assert_allclose(camera.project(np.column_stack((rays, (1, 1)))), pixels, atol=1e-9)


def test_what_is_behind_the_camera_has_no_pixel() -> None:
    pixels = camera_with("none").project(np.array(((0.0, 0, 2), (0, 0, -2), (0, 0, 0))))
    np.testing.assert_allclose(pixels[0], (322, 238))
    assert np.isnan(pixels[1:]).all()


def test_the_nominal_camera_sees_sixty_degrees_over_the_larger_side() -> None:
    for width, height in ((640, 480), (480, 640)):
        camera = Camera.nominal_for(width, height)
        assert camera.nominal
        border = camera.normalize(np.array(((-0.5, -0.5), (width - 0.5, height - 0.5))))
        angles = np.degrees(np.arctan(border[1]) - np.arctan(border[0]))
        assert angles.max() == pytest.approx(60)


@pytest.mark.parametrize("model", LENSES)
def test_ray_rotation_turns_z_onto_the_ray_and_no_further(model: str) -> None:
    camera = camera_with(model)
    camera_from_ray = camera.ray_rotation((70.0, 400.0))
    np.testing.assert_allclose(camera_from_ray @ camera_from_ray.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(camera_from_ray) == pytest.approx(1)
    np.testing.assert_allclose(camera.project(camera_from_ray[:, 2:].T * 3), ((70, 400),), atol=1e-3)
    ray = camera_from_ray[:, 2]
    # The smallest rotation: its angle is that between z and the ray, and its axis is kept.
    assert (np.trace(camera_from_ray) - 1) / 2 == pytest.approx(ray[2])
    axis = np.cross((0, 0, 1), ray)
    np.testing.assert_allclose(camera_from_ray @ axis, axis, atol=1e-12)


def test_the_ray_through_the_principal_point_turns_nothing() -> None:
    np.testing.assert_allclose(camera_with("none").ray_rotation((322.0, 238.0)), np.eye(3), atol=1e-15)


def test_weak_perspective_translates_before_it_scales() -> None:
    points = np.array(((0.1, 0.2, 5.0), (-0.3, 0.0, -5.0)))
    pixels = weak_perspective_px(points, np.array((0.5, 0.4, -0.2)), Box(100, 50, 200))
    np.testing.assert_allclose(pixels, ((100 + 0.5 * 0.5 * 100, 50), (100 + 0.5 * 0.1 * 100, 50 - 0.5 * 0.2 * 100)))


@pytest.mark.parametrize("model", LENSES)
def test_translation_is_found_through_the_lens(model: str) -> None:
    camera = camera_with(model)
    translation = np.array((0.5, -0.3, 3.2))
    found = solve_translation(body(), camera.project(body() + translation), camera)
    np.testing.assert_allclose(found, translation, atol=1e-5)


def test_translation_from_weak_perspective_has_the_depth_of_its_scale() -> None:
    camera, box = camera_with("none"), Box(322, 238, 300)
    scale = 0.8
    found = solve_translation(body(), weak_perspective_px(body(), np.array((scale, 0, 0)), box), camera)
    assert found[2] == pytest.approx(2 * 515 / (scale * box.size), rel=0.03)


def test_weights_decide_between_two_stories() -> None:
    camera = camera_with("none")
    pixels = camera.project(body() + np.array((0.5, -0.3, 3.2)))
    pixels[50:] += 80
    weights = np.r_[np.ones(50), np.full(50, 1e-9)]
    np.testing.assert_allclose(solve_translation(body(), pixels, camera, weights), (0.5, -0.3, 3.2), atol=1e-4)


def test_a_mirrored_body_is_not_placed_behind_the_camera() -> None:
    camera = camera_with("none")
    pixels = camera.project(body() * (-1, -1, 1) + (0, 0, 3.0))
    assert (body()[:, 2] + solve_translation(body(), pixels, camera)[2]).min() > 0


def test_nonsense_cannot_be_placed() -> None:
    pixels = np.full((100, 2), np.nan)
    with pytest.raises(CameraError, match="place"):
        solve_translation(body(), pixels, camera_with("none"))
    with pytest.raises(CameraError, match="place"):
        solve_translation(body(count=1), np.zeros((1, 2)), camera_with("none"))


@pytest.mark.parametrize(
    ("matrix", "distortion", "model", "says"),
    [
        (np.zeros((3, 3)), [], "none", "not calibrated"),
        (MATRIX * np.nan, [], "none", "finite"),
        (np.eye(2), [], "none", "3x3"),
        (MATRIX.T, [], "none", "camera matrix"),
        (MATRIX, [0.1, 0.2], "plumb_bob", "4 or 5"),
        (MATRIX, [0.1, np.nan, 0, 0], "plumb_bob", "finite"),
        (MATRIX, [0.1], "none", "distortion of none"),
        (MATRIX, [], "thin_prism", "unknown distortion model"),
    ],
)
def test_impossible_calibrations(matrix: np.ndarray, distortion: list[float], model: str, says: str) -> None:
    with pytest.raises(CameraError, match=says):
        Camera(640, 480, matrix, distortion, model)


def test_zeros_that_a_driver_appends_are_dropped() -> None:
    camera = Camera(640, 480, MATRIX, [0.1, 0.2, 0, 0, 0.3, 0, 0, 0], "plumb_bob")
    assert camera.distortion.tolist() == [0.1, 0.2, 0, 0, 0.3]


def test_calibration_file_of_ros(tmp_path: Path) -> None:
    fields = {
        "image_width": 640,
        "image_height": 480,
        "camera_name": "webcam",
        "camera_matrix": {"rows": 3, "cols": 3, "data": MATRIX.ravel().tolist()},
        "distortion_model": "plumb_bob",
        "distortion_coefficients": {"rows": 1, "cols": 5, "data": LENSES["plumb_bob"]},
    }
    path = tmp_path / "camera.yaml"
    path.write_text(yaml.safe_dump(fields))
    camera = Camera.from_calibration(path)
    assert (camera.width, camera.height, camera.model, camera.nominal) == (640, 480, "plumb_bob", False)
    np.testing.assert_array_equal(camera.matrix, MATRIX)
    assert camera.distortion.tolist() == LENSES["plumb_bob"]


@pytest.mark.parametrize("text", ["", "image_width: 640", "[1, 2", "!!python/object/apply:os.getcwd []"])
def test_calibration_files_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(text)
    with pytest.raises(CameraError, match="camera_calibration"):
        Camera.from_calibration(path)
    with pytest.raises(CameraError, match="camera_calibration"):
        Camera.from_calibration(tmp_path / "missing.yaml")
