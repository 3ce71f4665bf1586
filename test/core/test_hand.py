"""A hand goes through the core like a body: other joints, another root, a ninth of the size."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import HAND_21, HAND_RADII_M, make_tiny_bundle, person_image, tiny_mesh
from tiny_clip import FRAMES, write_tiny_clip

from metro_ros.core.bundle import Bundle
from metro_ros.core.camera import Camera
from metro_ros.core.clip import load_clip
from metro_ros.core.crop import Box
from metro_ros.core.draw import draw_people, silhouette
from metro_ros.core.engines import available_engines, open_engine
from metro_ros.core.estimator import Estimator
from metro_ros.core.evaluation import Score, compare_bodies, summarize
from metro_ros.core.look import MIN_EXTENT, decode
from metro_ros.core.metrics import silhouette_iou
from metro_ros.core.tracking_metrics import TrackingCounts

CAMERA = Camera(640, 480, np.array(((500.0, 0, 320), (0, 500, 240), (0, 0, 1))))
ENGINES = [engine.name for engine in available_engines() if engine.version]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_hand_is_found_and_followed_in_metres(hand_bundle: Bundle, engine: str) -> None:
    estimator = Estimator(hand_bundle, open_engine(hand_bundle, engine, threads=1))  # type: ignore[arg-type]
    identities = set()
    for step in range(4):
        center = (300 + 20 * step, 200)
        image = person_image(640, 480, center, 160, hand=True)
        (hand,) = estimator(image, CAMERA)
        identities.add(hand.id)
        depth = 500 * 2 * HAND_RADII_M[1] / 160
        middle = ((center[0] - 320) * depth / 500, (200 - 240) * depth / 500, depth)
        np.testing.assert_allclose(hand.vertices.mean(axis=0), middle, atol=0.03 * depth)
        assert hand.joints.shape == (21, 3) and hand.vertices.shape == (258, 3)
        assert hand.joint_confidence is None and hand.score == 1
        np.testing.assert_allclose(hand.joints[0], hand.translation, atol=1e-6)
        assert silhouette_iou(silhouette(hand.vertices, hand_bundle.faces[-1], CAMERA), image[..., 0] > 127) > 0.9
    assert len(identities) == 1


def test_the_smallest_scale_believed_follows_the_size_of_the_mesh(hand_bundle: Bundle, tiny_bundle: Bundle) -> None:
    """A fiftieth of the crop's side, be it a body or a hand."""
    for bundle in (hand_bundle, tiny_bundle):
        engine = open_engine(bundle, "onnxruntime", threads=1)
        output = engine.infer(np.zeros((2, 64, 64, 3), np.uint8))
        smallest = 2 * MIN_EXTENT / bundle.extent_m
        output.camera[:] = ((0.9 * smallest, 0, 0), (1.1 * smallest, 0, 0))
        output = output._replace(confidence=None)
        bodies = [decode(output, index, Box(320, 240, 200), CAMERA, bundle, bundle.rows[-1]) for index in range(2)]
        assert [body.score for body in bodies] == [0.0, 1.0]
        assert np.ptp(bodies[0].anchors_px[:, 1]) == pytest.approx(MIN_EXTENT * 200, rel=1e-3)
        engine.close()


def test_a_hand_without_a_scale_is_nobody(hand_bundle: Bundle) -> None:
    estimator = Estimator(hand_bundle, open_engine(hand_bundle, "onnxruntime", threads=1))
    assert estimator(np.zeros((480, 640, 3), np.uint8), CAMERA) == []
    assert len(estimator(person_image(640, 480, (300, 240), 200, hand=True), CAMERA)) == 1


def test_a_hand_is_drawn(hand_bundle: Bundle) -> None:
    image = person_image(640, 480, (300, 240), 200, hand=True)
    (hand,) = Estimator(hand_bundle, open_engine(hand_bundle, "onnxruntime", threads=1))(image, CAMERA)
    picture = draw_people(image, [hand], CAMERA, hand_bundle.faces[0], HAND_21, hand_bundle.rows[0])
    covered = silhouette(hand.vertices, hand_bundle.faces[-1], CAMERA)
    assert (picture != image).any(axis=2)[covered].mean() > 0.9


def test_a_hand_is_scored_on_all_its_joints_relative_to_the_wrist(hand_bundle: Bundle, tmp_path: Path) -> None:
    write_tiny_clip(tmp_path / "clip")
    clip = dataclasses.replace(load_clip(tmp_path / "clip"), rest_vertices=tiny_mesh(hand=True)["template"][None])
    truth = clip.vertices(FRAMES - 1, 0)
    joints = (hand_bundle.joint_regressor @ truth).astype(np.float32)
    shift = np.array((0.1, -0.05, 0.3), np.float32)
    (hand,) = Estimator(hand_bundle, open_engine(hand_bundle, "onnxruntime", threads=1))(
        person_image(640, 480, (300, 240), 200, hand=True), CAMERA
    )
    placed = dataclasses.replace(hand, joints=joints + shift, vertices=(truth + shift).astype(np.float32))
    errors = compare_bodies(truth, placed, clip.camera, hand_bundle)
    assert errors.mpjpe_mm == pytest.approx(0, abs=1e-3) and errors.mpvpe_mm == pytest.approx(0, abs=1e-3)
    assert errors.f_5mm == errors.f_15mm == 1
    rough = truth + 0.01 * np.random.default_rng(0).choice((-1, 1), truth.shape).astype(np.float32)
    errors = compare_bodies(truth, dataclasses.replace(placed, vertices=rough), clip.camera, hand_bundle)
    assert errors.f_5mm is not None and errors.f_15mm is not None and errors.f_5mm < 0.5 * errors.f_15mm
    assert summarize([Score(1, [errors], TrackingCounts())]).f_15mm == errors.f_15mm
    bent = placed.joints.copy()
    bent[HAND_21.index("Pinky_4"), 2] += 0.021
    errors = compare_bodies(truth, dataclasses.replace(placed, joints=bent), clip.camera, hand_bundle)
    assert errors.mpjpe_mm == pytest.approx(1, abs=1e-3)  # 21 mm of one joint in 21


def test_a_template_without_size_is_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiny_bundle

    from metro_ros.core.errors import BundleError

    mesh = {**tiny_mesh(hand=True), "template": np.zeros((258, 3), np.float32)}
    monkeypatch.setattr(tiny_bundle, "tiny_mesh", lambda hand: mesh)
    with pytest.raises(BundleError, match="template: expected vertices that differ"):
        make_tiny_bundle(tmp_path / "flat", hand=True)
