import numpy as np
import pytest
from tiny_bundle import HAND_21

from metro_ros.core.errors import ConfigError
from metro_ros.core.skeleton import BODY_17, J14, Skeleton


def test_body_17_starts_with_the_joints_of_metro() -> None:
    assert BODY_17.names[:14] == J14
    assert BODY_17.indices(J14) == list(range(14))


@pytest.mark.parametrize(
    ("child", "parent"),
    [("R_Ankle", "R_Knee"), ("L_Hip", "Pelvis"), ("L_Wrist", "L_Elbow"), ("R_Shoulder", "Neck"), ("Head", "Neck")],
)
def test_bones_of_the_body(child: str, parent: str) -> None:
    assert (BODY_17.index(parent), BODY_17.index(child)) in BODY_17.bones()


def test_a_tree_of_seventeen_joints_has_sixteen_bones_within_a_side() -> None:
    assert len(BODY_17.bones()) == 16
    for parent, child in BODY_17.bones():
        assert BODY_17.sides[parent] in (BODY_17.sides[child], "middle")


def test_the_root_of_a_body_is_its_mid_hip_and_of_a_hand_its_wrist() -> None:
    joints = np.random.RandomState(0).standard_normal((4, 21, 3))
    np.testing.assert_allclose(BODY_17.root(joints[:, :17]), (joints[:, 2] + joints[:, 3]) / 2)
    np.testing.assert_allclose(HAND_21.root(joints), joints[:, 0])


@pytest.mark.parametrize(
    ("names", "parents", "says"),
    [
        (("a", "a"), (-1, 0), "names"),
        (("a", "b"), (-1,), "parent"),
        (("a", "b"), (-1, 2), "out of range"),
        (("a", "b"), (1, 0), "ancestor"),
        (("a",), (0,), "ancestor"),
    ],
)
def test_impossible_skeletons(names: tuple[str, ...], parents: tuple[int, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Skeleton(names, parents)


def test_an_unknown_joint_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"R_Ankle.*got Tail"):
        BODY_17.index("Tail")


@pytest.mark.parametrize(
    "name", ["R_Wrist", "r_wrist", "right_wrist", "Right Wrist", "RIGHT-WRIST", "wrist_right", "RightWrist", "RWrist"]
)
def test_a_joint_is_found_by_the_names_that_people_use(name: str) -> None:
    assert BODY_17.names[BODY_17.find(name)] == "R_Wrist"


def test_every_joint_is_found_by_its_own_name() -> None:
    for skeleton in (BODY_17, HAND_21):
        assert [skeleton.find(name) for name in skeleton.names] == list(range(len(skeleton)))
        assert [skeleton.find(name.lower()) for name in skeleton.names] == list(range(len(skeleton)))


@pytest.mark.parametrize("name", ["wrist", "tail", "", "_", "right_wrist_2"])
def test_what_is_no_joint_s_name_finds_none(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown joint.*R_Ankle"):
        BODY_17.find(name)
