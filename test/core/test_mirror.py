"""Left hands by a right-hand model: a mirrored image gives the mirrored hand, and nothing else changes."""

from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import make_tiny_bundle, person_image

from metro_ros.core.bundle import Bundle
from metro_ros.core.camera import Camera
from metro_ros.core.engines import Output, open_engine
from metro_ros.core.errors import ConfigError
from metro_ros.core.estimator import Estimator, Person
from metro_ros.core.mirror import mirror_bundle, mirror_output

MIRROR = np.array((-1, 1, 1))
CENTRED = np.array(((500.0, 0, 319.5), (0, 500, 239.5), (0, 0, 1)))
CAMERA = Camera(640, 480, CENTRED, np.array((-0.2, 0.04, 0.001, 0.0, 0.0)), "plumb_bob")  # the same mirrored


def follow(bundle: Bundle, images: list[np.ndarray]) -> list[Person]:
    estimator = Estimator(bundle, open_engine(bundle, "onnxruntime", threads=1))
    return [person for image in images for person in estimator(image, CAMERA)]


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Of a closed mesh: positive when its normals point outward."""
    a, b, c = (vertices[faces[:, corner]].astype(np.float64) for corner in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


@pytest.mark.parametrize("frame", ["crop_ray", "camera"])
def test_a_mirrored_image_gives_the_mirrored_hand(tmp_path: Path, frame: str) -> None:
    bundle = make_tiny_bundle(tmp_path / "hand", camera_frame=frame, hand=True)  # type: ignore[arg-type]
    images = [person_image(640, 480, (420 + 8 * step, 190), 150, hand=True) for step in range(3)]
    right = follow(bundle, images)
    left = follow(mirror_bundle(bundle), [np.ascontiguousarray(image[:, ::-1]) for image in images])
    assert len(right) == len(left) == 3
    for seen, mirrored in zip(right, left, strict=True):
        for name in ("joints", "vertices", "translation"):  # 0.3 mm: OpenCV samples crops at 1/32 of a pixel
            np.testing.assert_allclose(getattr(mirrored, name), getattr(seen, name) * MIRROR, atol=1e-3)
        assert mirrored.box.cx == pytest.approx(639 - seen.box.cx, abs=0.1)
        assert mirrored.box.size == pytest.approx(seen.box.size, rel=1e-3)
    thumb, pinky = (bundle.skeleton.index(f"{finger}_4") for finger in ("Thumb", "Pinky"))
    assert right[0].joints[thumb, 0] > right[0].joints[pinky, 0] + 0.03
    assert left[0].joints[thumb, 0] < left[0].joints[pinky, 0] - 0.03


def test_the_mirrored_mesh_has_its_normals_outward_on_every_level(hand_bundle: Bundle) -> None:
    mirrored = mirror_bundle(hand_bundle)
    assert np.array_equal(mirrored.template, hand_bundle.template * MIRROR)
    for level, rows in enumerate(hand_bundle.rows):
        before = volume(hand_bundle.template[rows], hand_bundle.faces[level])
        assert before > 0
        assert volume(mirrored.template[rows], mirrored.faces[level]) == pytest.approx(before)
        assert mirrored.faces[level].dtype == np.int32
    for array in (mirrored.template, *mirrored.faces):
        assert array.flags.c_contiguous and not array.flags.writeable


def test_a_mirrored_bundle_mirrors_back(hand_bundle: Bundle) -> None:
    mirrored = mirror_bundle(hand_bundle)
    back = mirror_bundle(mirrored)
    assert (hand_bundle.mirrored, mirrored.mirrored, back.mirrored) == (False, True, False)
    assert np.array_equal(back.template, hand_bundle.template)
    for faces, before in zip(back.faces, hand_bundle.faces, strict=True):
        assert np.array_equal(faces, before)


def test_bodies_are_refused(tiny_bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"tiny cannot be mirrored: expected a hand.* got R_Ankle.*Leave mirror out"):
        mirror_bundle(tiny_bundle)


def test_a_mirrored_answer_projects_to_the_mirrored_place() -> None:
    random = np.random.default_rng(0)
    joints, vertices, camera = (
        random.normal(size=shape).astype(np.float32) for shape in ((2, 21, 3), (2, 5, 3), (2, 3))
    )
    confidence = random.random((2, 21)).astype(np.float32)
    output = Output(joints, vertices, camera, confidence)
    mirrored = mirror_output(output)

    def across(output: Output) -> np.ndarray:
        return output.camera[:, :1] * (output.joints[..., 0] + output.camera[:, 1:2])

    np.testing.assert_allclose(across(mirrored), -across(output), rtol=1e-6)
    assert np.array_equal(mirrored.vertices, vertices * MIRROR)
    assert mirrored.confidence is confidence
    assert all(array.dtype == np.float32 for array in mirrored if array is not None)
