"""The evaluation of a clip with two people, whose answers are made from its truth."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny_clip import FRAMES, write_tiny_clip

from metro_ros.core.bundle import Bundle
from metro_ros.core.camera import Camera
from metro_ros.core.clip import Clip, load_clip
from metro_ros.core.errors import SourceError
from metro_ros.core.evaluation import ClipEvaluation, ClipResult, evaluate_clip, summarize, tight_box


@dataclasses.dataclass
class Found:
    id: int
    score: float
    joints: np.ndarray
    vertices: np.ndarray


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """Four frames of the tiny clip, with a second person 0.9 m to the left of the first and a little farther away."""
    folder = tmp_path_factory.mktemp("clips") / "two"
    write_tiny_clip(folder)
    one = load_clip(folder)
    transforms = np.repeat(one.bone_transforms[:4], 2, axis=1)
    transforms[:, 1, 0, :, 3] += (-0.9, 0.0, 0.5)
    return dataclasses.replace(
        one,
        rest_vertices=np.repeat(one.rest_vertices, 2, axis=0),
        bone_transforms=transforms,
        visible=np.ones((4, 2), np.float32),
    )


def exact(clip: Clip, frame: int, person: int, bundle: Bundle, found_id: int, right: float = 0.0) -> Found:
    """Somebody found as they are, but `right` metres further to the right."""
    vertices = clip.vertices(frame, person) + np.array((right, 0, 0), np.float32)
    return Found(found_id, 0.9, bundle.joint_regressor @ vertices, vertices)


def evaluate(clip: Clip, bundle: Bundle, ids: Sequence[dict[int, int]]) -> ClipResult:
    """ids: for each frame {person: id it was found under}."""
    people = [[exact(clip, t, who, bundle, each) for who, each in frame.items()] for t, frame in enumerate(ids)]
    return evaluate_clip(clip, people, bundle)


def test_perfect_answers(clip: Clip, tiny_bundle: Bundle) -> None:
    result = evaluate(clip, tiny_bundle, [{0: 5, 1: 3}] * 4)
    assert (result.frames, result.bodies, result.lost) == (4, 8, 0)
    assert max(result.mpjpe_mm, result.pa_mpjpe_mm, result.mpvpe_mm) < 1e-3 and result.silhouette_iou == 1
    assert (result.recall, result.precision, result.mota, result.idf1) == (1, 1, 1, 1)
    assert (result.id_switches, result.clips_kept, result.clips) == (0, 1, 1)


def test_swapped_ids_leave_the_bodies_alone(clip: Clip, tiny_bundle: Bundle) -> None:
    result = evaluate(clip, tiny_bundle, [{0: 1, 1: 2}] * 2 + [{0: 2, 1: 1}] * 2)
    assert (result.id_switches, result.clips_kept, result.lost) == (2, 0, 0)
    assert result.mota == 0.75 and result.idf1 == 0.5 and result.mpjpe_mm < 1e-3


def test_a_missing_person_is_a_failure_of_the_body_too(clip: Clip, tiny_bundle: Bundle) -> None:
    result = evaluate(clip, tiny_bundle, [{0: 1, 1: 2}] * 3 + [{0: 1}])
    assert (result.bodies, result.lost) == (8, 1) and result.recall == 7 / 8
    assert result.silhouette_iou == pytest.approx(7 / 8)


def test_nobody_else_stands_in_for_a_missing_person(clip: Clip, tiny_bundle: Bundle) -> None:
    people = [[exact(clip, frame, 0, tiny_bundle, 1), exact(clip, frame, 1, tiny_bundle, 2, 1.6)] for frame in range(4)]
    result = evaluate_clip(clip, people, tiny_bundle)
    assert (result.lost, result.recall, result.precision, result.clips_kept) == (4, 0.5, 0.5, 0)


def test_a_hidden_person_does_not_count(clip: Clip, tiny_bundle: Bundle) -> None:
    visible = clip.visible.copy()
    visible[2:, 1] = 0.2
    hidden = dataclasses.replace(clip, visible=visible)
    for last in ({0: 1}, {0: 1, 1: 2}, {0: 1, 1: 9}):
        result = evaluate(hidden, tiny_bundle, [{0: 1, 1: 2}] * 2 + [last] * 2)
        assert (result.bodies, result.lost, result.mota, result.clips_kept) == (6, 0, 1, 1)


def test_a_lone_person_is_compared_with_the_likeliest_answer(clip: Clip, tiny_bundle: Bundle) -> None:
    alone = dataclasses.replace(
        clip,
        rest_vertices=clip.rest_vertices[:1],
        bone_transforms=clip.bone_transforms[:, :1],
        visible=clip.visible[:, :1],
    )
    people = []
    for frame in range(4):
        near, far = (exact(alone, frame, 0, tiny_bundle, number, right) for number, right in ((1, 0.0), (2, 1.0)))
        far.score = 0.95
        people.append([near, far])
    result = evaluate_clip(alone, people, tiny_bundle)
    assert result.lost == 0 and result.silhouette_iou < 0.5 and result.mpjpe_mm < 1e-3  # that of the far one
    assert (result.recall, result.precision) == (1, 0.5)


def test_frames_that_were_not_answered_are_failures(clip: Clip, tiny_bundle: Bundle) -> None:
    evaluation = ClipEvaluation(clip, tiny_bundle)
    evaluation.add([exact(clip, 0, who, tiny_bundle, who) for who in range(2)])
    result = summarize([evaluation.score()])
    assert (result.frames, result.bodies, result.lost, result.recall) == (4, 8, 6, 0.25)


def test_two_clips_weigh_by_their_bodies(clip: Clip, tiny_bundle: Bundle) -> None:
    scores = []
    for answered in (True, False):
        evaluation = ClipEvaluation(clip, tiny_bundle)
        for frame in range(4):
            evaluation.add([exact(clip, frame, who, tiny_bundle, who) for who in range(2)] if answered else None)
        scores.append(evaluation.score())
    result = summarize(scores)
    assert (result.frames, result.bodies, result.lost, result.clips, result.clips_kept) == (8, 16, 8, 2, 1)
    assert result.silhouette_iou == 0.5


def test_mistakes(clip: Clip, tiny_bundle: Bundle) -> None:
    with pytest.raises(SourceError, match="expected 4 frames, got 3"):
        evaluate_clip(clip, [[]] * 3, tiny_bundle)
    with pytest.raises(SourceError, match="another body"):
        ClipEvaluation(dataclasses.replace(clip, rest_vertices=clip.rest_vertices[:, 1:]), tiny_bundle)
    with pytest.raises(SourceError, match="one each"):
        ClipEvaluation(clip, tiny_bundle).add([exact(clip, 0, who, tiny_bundle, 1) for who in range(2)])
    with pytest.raises(SourceError, match="nothing to evaluate"):
        evaluate_clip(dataclasses.replace(clip, visible=0 * clip.visible), [[]] * 4, tiny_bundle)
    evaluation = ClipEvaluation(clip, tiny_bundle)
    evaluation.score()
    with pytest.raises(SourceError, match="expected 4 frames, got more"):
        evaluation.add([])


def test_a_box_ends_where_the_image_does() -> None:
    camera = Camera(100, 80, np.array(((100.0, 0, 50), (0, 100, 40), (0, 0, 1))))
    points = np.array(((-1.0, -0.1, 1), (0.2, 0.3, 1), (0, 0, -1)))
    np.testing.assert_allclose(tight_box(points, camera), (-0.5, 30, 70, 70))
    assert np.isnan(tight_box(points - (5, 0, 0), camera)).all()
    assert np.isnan(tight_box(-points[:2], camera)).all()


def test_the_tiny_clip_is_that_of_one_person(tmp_path: Path) -> None:
    write_tiny_clip(tmp_path / "one")
    clip = load_clip(tmp_path / "one")
    assert (len(clip), clip.people, clip.visible.min()) == (FRAMES, 1, 1)
