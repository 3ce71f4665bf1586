"""A fitted confidence is calibrated, changes nothing else, and reaches the bundle with its meaning."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from stand_ins import make_sample
from test_stages import make_batch
from tiny_network import make_mesh, scramble, small_config

from metro_ros.core.engines import open_engine
from metro_ros.core.errors import ConfigError, SourceError
from training.build import build
from training.calibrate import HEAD, answer, calibrate, main, measure, with_reliability
from training.checkpoint import load_checkpoint, save_checkpoint
from training.datasets.mixture import Batch
from training.datasets.shards import write_shard
from training.export import BundleInfo, check_against_torch, export_bundle, probe_crops
from training.folding import FoldedMetro
from training.network import Metro
from training.network_config import MetroConfig
from training.normalize import Normalize
from training.onnx_graph import ExportError
from training.reliability import CLUES, gather_clues, sighting

COUNT = 160


@pytest.fixture(scope="module")
def network() -> tuple[Metro, MetroConfig]:
    torch.manual_seed(3)
    config = small_config("default", (8,))
    return scramble(build(config, make_mesh())), config


@pytest.fixture(scope="module")
def batch(network: tuple[Metro, MetroConfig]) -> Batch:
    """Crops of all brightnesses, whose truth is further from the answer the brighter they are: 50 mm at the middle."""
    metro, _ = network
    generator = torch.Generator().manual_seed(4)
    brightness = torch.rand(COUNT, generator=generator)
    images = 255 * brightness[:, None, None, None] * torch.rand(COUNT, 64, 64, 3, generator=generator)
    with torch.no_grad():
        joints = metro(Normalize()(images), levels=1).joints
    away = torch.randn(COUNT, metro.mesh.joint_count, 3, generator=generator)
    off_m = 0.1 * brightness + 0.01 * torch.randn(COUNT, generator=generator)
    away = off_m.abs()[:, None, None] * away / away.norm(dim=2, keepdim=True)
    away[:, list(metro.mesh.root_joints)] = 0
    return make_batch(COUNT)._replace(image=images, joints=joints + away + 3.0)


@pytest.fixture(scope="module")
def fitted(network: tuple[Metro, MetroConfig], batch: Batch) -> tuple[Metro, MetroConfig, str]:
    return calibrate(*network, [batch])


def test_calibration_lowers_the_error_on_crops_not_fitted_on(
    fitted: tuple[Metro, MetroConfig, str], batch: Batch
) -> None:
    metro, config, told = fitted
    held_out = answer(metro, [batch]).rows(torch.arange(COUNT) % 4 == 3)
    confidence = metro.reliability_head(held_out.clues).sigmoid().detach()
    before, after = measure(held_out.visibility, held_out, 50.0), measure(confidence, held_out, 50.0)
    assert before.ece > 0.2 and after.ece < 0.08
    limbs = [joint for joint in range(metro.mesh.joint_count) if joint not in metro.mesh.root_joints]
    right = held_out.error_mm[:, limbs] < 50
    said = confidence[:, limbs]
    assert said[right].mean() > 0.8 and said[~right].mean() < 0.2, "it tells them apart"
    assert f"{after.ece:.3f}" in told.splitlines()[-1] and f"{before.ece:.3f}" in told.splitlines()[-1]
    assert config.reliability_mm == 50


def test_nothing_else_changes(network: tuple[Metro, MetroConfig], fitted: tuple[Metro, MetroConfig, str]) -> None:
    before, after = network[0].state_dict(), fitted[0].state_dict()
    assert {name for name in after if name not in before} == {f"{HEAD}judge.weight", f"{HEAD}judge.bias"}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_calibrating_again_begins_anew(fitted: tuple[Metro, MetroConfig, str], batch: Batch) -> None:
    metro, config, _ = fitted
    again, config, _ = calibrate(metro, config, [batch], threshold_mm=50.0)
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, metro.state_dict()[name], rtol=0, atol=1e-6)
    closer, config, _ = calibrate(metro, config, [batch], [batch], threshold_mm=25.0)
    clues = answer(metro, [batch]).clues
    assert config.reliability_mm == 25
    assert closer.reliability_head(clues).mean() < metro.reliability_head(clues).mean() - 0.5


def test_joints_that_are_not_known_do_not_count(network: tuple[Metro, MetroConfig], batch: Batch) -> None:
    metro, _ = with_reliability(*network, 50.0)
    roots, confidence = list(metro.mesh.root_joints), batch.joint_confidence.clone()
    confidence[0, roots[0]], confidence[1, 4] = 0, 0
    error_mm = answer(metro, [batch._replace(joint_confidence=confidence)]).error_mm
    assert error_mm[0].isnan().all() and error_mm[1].isnan().tolist() == [False, False, False, False, True]
    torch.testing.assert_close(error_mm[2:], answer(metro, [batch]).error_mm[2:])


def test_what_hides_a_joint_is_seen_by_the_mask(network: tuple[Metro, MetroConfig]) -> None:
    metro, _ = with_reliability(*network, 50.0)
    batch, mask = make_batch(2), torch.zeros(2, 16, 16)
    mask[:, :, 8:] = 1.0
    keypoints = torch.zeros(2, metro.mesh.joint_count, 2)
    keypoints[:, 0, 0], keypoints[:, 1, 0], keypoints[:, 2, 0] = 1 / 16, -1 / 16, 0.5  # two cells beside the edge
    seen = torch.ones(2, metro.mesh.joint_count)
    seen[:, 2] = 0
    covered = answer(metro, [batch._replace(mask=mask, keypoints=keypoints, keypoint_confidence=seen)]).covered
    assert covered[:, :4].tolist() == [[1.0, 0.0, 0.0, 0.5]] * 2
    unknown = answer(metro, [batch._replace(mask=mask, has_dense=torch.tensor([1.0, 0.0]))]).covered
    assert not unknown[0].isnan().any() and unknown[1].isnan().all()


def test_clues_are_what_they_are_called() -> None:
    """One joint, in a map of 8 by 8 cells: at one cell, or anywhere; found where its 3D projects to, or beside."""
    sure, lost = torch.full((1, 1, 8, 8), -50.0), torch.zeros(1, 1, 8, 8)
    sure[0, 0, 2, 5] = 50.0
    place = torch.tensor([[[(2 * 5 + 1) / 8 - 1, (2 * 2 + 1) / 8 - 1]]])
    mask = torch.full((1, 1, 8, 8), -50.0)
    mask[0, 0, :4] = 50.0
    joint, camera, visible = torch.tensor([[[0.1, 0.2, 0.3]]]), torch.tensor([[0.5, 0.0, 0.0]]), torch.tensor([[20.0]])
    found = gather_clues(sure, mask, place, visible, joint, camera)[0]
    gap_m = float((0.5 * joint[0, 0, :2] - place[0, 0]).norm()) / 0.5
    expected = [0.0, np.log(0.01), 8.0, 0.5 * np.log(gap_m**2 + 1e-4), 1.0, 0.5]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    spread = gather_clues(lost, mask, torch.zeros(1, 1, 2), visible, joint, camera)[0]
    np.testing.assert_allclose(spread[:2], [np.log(1 / 64), 0.5 * np.log(2 * 0.328125)], atol=1e-3)
    assert spread[4] == pytest.approx(0.5) and len(spread) == CLUES + 1


def test_a_joint_is_sighted_in_the_crop_and_on_a_silhouette() -> None:
    heatmaps = torch.zeros(1, 2, 4, 4)
    heatmaps[0, :, 1, 2] = 40.0
    mask = torch.full((1, 1, 4, 4), -40.0)
    believed = torch.tensor([[3.0, -30.0]])
    assert sighting(believed, heatmaps, mask).max() < 1e-6  # nobody is there
    mask[0, 0, 1, 2] = 40.0
    torch.testing.assert_close(sighting(believed, heatmaps, mask), believed.sigmoid())
    assert sighting(believed, torch.zeros(1, 2, 4, 4), mask)[0, 0] == pytest.approx(
        float(believed[0, 0].sigmoid()) / 16
    )


def test_the_bundle_says_what_confidence_means(fitted: tuple[Metro, MetroConfig, str], tmp_path: Path) -> None:
    metro, config, _ = fitted
    bundle = export_bundle(metro, config, BundleInfo(), tmp_path / "bundle")
    assert bundle.manifest.confidence_mm == 50
    names = [output.name for output in onnx.load(bundle.model_path).graph.output]
    assert names == ["joints", "vertices", "camera", "confidence", "visibility"]
    crops = probe_crops(64)
    with torch.no_grad():
        expected = metro(Normalize()(torch.from_numpy(crops)))
        folded = FoldedMetro(metro)(Normalize()(torch.from_numpy(crops)))
    seen = sighting(expected.confidence, expected.heatmaps, expected.mask)
    torch.testing.assert_close(folded.visibility, seen)
    for name in ("onnxruntime", "openvino"):
        output = open_engine(bundle, name, threads=1).infer(crops)  # type: ignore[arg-type]
        np.testing.assert_allclose(output.confidence, expected.reliability.sigmoid(), atol=1e-4)
        np.testing.assert_allclose(output.visibility, seen, atol=1e-4)
    assert (output.confidence != output.visibility).all()
    with torch.no_grad():
        metro.reliability_head.judge.bias[0] += 0.5
        try:
            with pytest.raises(ExportError, match="disagrees with torch in confidence"):
                check_against_torch(bundle.model_path.read_bytes(), metro, crops)
        finally:
            metro.reliability_head.judge.bias[0] -= 0.5


def test_from_the_command_line(
    network: tuple[Metro, MetroConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metro, config = network
    random = np.random.default_rng(0)
    samples = [
        make_sample(random.normal(size=(5, 3)) * scale, image=random.integers(0, 256, (64, 64, 3), np.uint8))
        for scale in np.linspace(0.01, 1, 12)
    ]
    (tmp_path / "crops").mkdir()
    write_shard(tmp_path / "crops" / "0.tar", samples, metro.mesh.joint_names)
    save_checkpoint(tmp_path / "last.safetensors", metro, config, {"name": "mine"})
    words = ["--checkpoint", tmp_path / "last.safetensors", "--data", f"shards:{tmp_path / 'crops'}"]
    out = tmp_path / "new" / "calibrated.safetensors"
    assert main([str(word) for word in [*words, "--out", out, "--threshold-mm", 400]]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("all joints")
    loaded, loaded_config, fields = load_checkpoint(out)
    assert loaded_config.reliability_mm == 400 and fields == {"name": "mine"}
    assert loaded.reliability_head is not None and loaded.reliability_head.judge.weight.abs().max() > 0

    for change, says in (
        (["--threshold-mm", "0"], "millimetres above 0"),
        (["--checkpoint", tmp_path / "none"], "cannot read"),
        (["--check", "pictures:here"], "expected KIND:PATH"),
    ):
        assert main([str(word) for word in [*words, "--out", out, *change]]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert line.startswith("calibrate: ") and says in line


def test_what_cannot_be_calibrated(network: tuple[Metro, MetroConfig], batch: Batch) -> None:
    config = small_config("paper_hand", (8,))
    with pytest.raises(ConfigError, match="reliability_mm: expected keypoints=True"):
        with_reliability(network[0], config, 50.0)
    unknown = batch._replace(joint_confidence=torch.zeros_like(batch.joint_confidence))
    with pytest.raises(SourceError, match="two or more with known joints, got 0"):
        calibrate(*network, [unknown])
