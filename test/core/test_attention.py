"""The attention view: read from a bundle, checked, mirrored, and drawn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_attention import add_tiny_attention, spread_attention
from tiny_bundle import make_tiny_bundle, person_image

from metro_ros.core.attention import Attention, AttentionNetwork, shares, token_regions
from metro_ros.core.attention_view import ViewConfig, draw_attention
from metro_ros.core.bundle import Bundle
from metro_ros.core.crop import Box
from metro_ros.core.errors import BundleError, ConfigError, MetroError
from metro_ros.core.mirror import mirror_bundle

WRIST, ANKLE, VERTEX = 6, 5, 20
"""Two joints of the tiny body, and a token that is a vertex."""
IMAGE = person_image(160, 120, (100, 60), 70)
BOX = Box(100, 60, 90)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    bundle = make_tiny_bundle(tmp_path_factory.mktemp("attention") / "tiny")
    return add_tiny_attention(bundle, spread_attention(bundle, {WRIST: VERTEX, ANKLE: 0}))


@pytest.fixture(scope="module")
def attention(bundle: Bundle) -> Attention:
    return AttentionNetwork(bundle).look(IMAGE, BOX)


def test_tokens_lie_on_the_person(bundle: Bundle, attention: Attention) -> None:
    joints, vertices = len(bundle.skeleton), bundle.levels[0]
    assert attention.joints.shape == (joints, 3) and attention.vertices.shape == (vertices, 3)
    np.testing.assert_allclose(attention.vertices, bundle.template[bundle.rows[0]], atol=1e-6)
    outline = attention.tokens_px[joints:]
    np.testing.assert_allclose((outline.min(axis=0) + outline.max(axis=0)) / 2, (100, 60), atol=1)
    np.testing.assert_allclose(np.ptp(outline[:, 1]), 70, atol=3)


def test_rows_are_what_the_network_says(bundle: Bundle, attention: Attention) -> None:
    assert attention.weights.shape == (35, 35)
    np.testing.assert_allclose(attention.weights.sum(axis=1), 1, atol=1e-5)
    assert attention.weights[WRIST].argmax() == VERTEX and attention.weights[ANKLE].argmax() == 0


def test_a_bundle_without_the_part_is_refused_with_the_remedy(tiny_bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"no attention view.*training\.export --attention") as refused:
        AttentionNetwork(tiny_bundle)
    assert "\n" not in str(refused.value)


def too_much(weights: np.ndarray) -> np.ndarray:
    return weights * 1.01


def negative(weights: np.ndarray) -> np.ndarray:
    weights[3, :2] += (-0.5, 0.5)
    return weights


def broken(weights: np.ndarray) -> np.ndarray:
    weights[0, 0] = np.nan
    return weights


def too_few(weights: np.ndarray) -> np.ndarray:
    return spread_weights_of(len(weights) - 1)


def spread_weights_of(tokens: int) -> np.ndarray:
    return np.full((tokens, tokens), 1 / tokens, np.float32)


@pytest.mark.parametrize("spoil", [too_much, negative, broken, too_few])
def test_what_is_no_attention_is_refused(bundle: Bundle, tmp_path: Path, spoil) -> None:
    spoilt = make_tiny_bundle(tmp_path / "spoilt")
    spoilt = add_tiny_attention(spoilt, spoil(spread_attention(bundle, {})))
    with pytest.raises(BundleError, match="output attention of") as refused:
        AttentionNetwork(spoilt).look(IMAGE, BOX)
    assert "\n" not in str(refused.value)


def test_another_graph_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    other = make_tiny_bundle(tmp_path / "other")
    other = add_tiny_attention(other, spread_attention(bundle, {}), output_name="attentions")
    with pytest.raises(BundleError, match="expected joints, vertices, camera, attention"):
        AttentionNetwork(other)
    (other.path / "attention.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleError, match="not the file that the manifest describes"):
        AttentionNetwork(other)


def test_a_left_hand_is_looked_at_in_the_mirror(tmp_path: Path) -> None:
    right = make_tiny_bundle(tmp_path / "hand", hand=True, confidence=False)
    right = add_tiny_attention(right, spread_attention(right, {}))
    image = person_image(160, 120, (100, 60), 70, hand=True)
    seen = AttentionNetwork(right).look(image, Box(92, 63, 90))
    image, box = np.ascontiguousarray(image[:, ::-1]), Box(159 - 92, 63, 90)
    mirrored = AttentionNetwork(mirror_bundle(right)).look(image, box)
    np.testing.assert_allclose(mirrored.tokens_px, (159, 0) + seen.tokens_px * (-1, 1), atol=1e-3)


def test_a_vertex_belongs_to_the_nearest_joint(bundle: Bundle, attention: Attention) -> None:
    regions = token_regions(bundle)
    joints = bundle.joint_regressor @ bundle.template
    for token, region in enumerate(regions):
        if token < len(joints):
            assert region == token
        else:
            vertex = bundle.template[bundle.rows[0][token - len(joints)]]
            assert region == min(range(len(joints)), key=lambda joint: np.linalg.norm(joints[joint] - vertex))


def test_shares_are_sums_over_regions_the_most_first(bundle: Bundle, attention: Attention) -> None:
    regions = token_regions(bundle)
    found = shares(attention, WRIST, regions)
    assert found[0].joint == regions[VERTEX] and found[0].total > 0.5
    assert sorted(found, key=lambda share: -share.total) == found
    np.testing.assert_allclose(sum(share.total for share in found), 1, atol=1e-5)
    for share in found:
        members = [token for token in range(35) if regions[token] == share.joint]
        np.testing.assert_allclose(share.total, attention.weights[WRIST, members].sum(), rtol=1e-5)
        np.testing.assert_allclose(
            (share.itself, share.equal), (attention.weights[WRIST, share.joint], len(members) / 35)
        )


def at(picture: np.ndarray, attention: Attention, token: int, side: int) -> np.ndarray:
    """The colour of the picture where a token lies, as floats."""
    x, y = np.rint((attention.box.to_crop(attention.tokens_px[token]) + 1) * side / 2 - 0.5).astype(int)
    return picture[y, x].astype(float)


def test_what_is_attended_to_is_bright(bundle: Bundle, attention: Attention) -> None:
    black = np.zeros_like(IMAGE)
    side = ViewConfig().side_px
    wrist, ankle = (
        draw_attention(black, attention, [joint], bundle.skeleton, token_regions(bundle)) for joint in (WRIST, ANKLE)
    )
    assert wrist.shape[1] == side and wrist.shape == ankle.shape
    assert at(wrist, attention, VERTEX, side).mean() > 150 > 60 > at(wrist, attention, VERTEX + 1, side).mean()
    assert at(ankle, attention, VERTEX, side).mean() < 60, "another joint, another picture"
    assert at(ankle, attention, 0, side).mean() > 150
    assert (wrist[side:] != ankle[side:]).any(), "another legend"


def test_joints_stand_side_by_side_over_the_image(bundle: Bundle, attention: Attention) -> None:
    config, regions = ViewConfig(side_px=200), token_regions(bundle)
    one = draw_attention(IMAGE, attention, [WRIST], bundle.skeleton, regions, config)
    two = draw_attention(IMAGE, attention, [WRIST, ANKLE], bundle.skeleton, regions, config)
    np.testing.assert_array_equal(two[:, :200], one)
    assert two.shape[1] == 402
    unlit = draw_attention(np.zeros_like(IMAGE), attention, [WRIST], bundle.skeleton, regions, config)
    assert (one[:200] != unlit[:200]).any(), "the image shows through"


def test_tokens_far_outside_and_full_attention_to_itself_can_be_drawn(bundle: Bundle, attention: Attention) -> None:
    far = replace(attention, camera=np.array((1e6, 0.1, 0.1), np.float32), weights=np.eye(35, dtype=np.float32))
    picture = draw_attention(IMAGE, far, [WRIST], bundle.skeleton, token_regions(bundle))
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("wrong", [{"side_px": 3}, {"brightness": 2.0}, {"listed": 0}])
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(MetroError, match=next(iter(wrong))):
        ViewConfig(**wrong)
