"""Training on a stand-in body: it learns, it can be interrupted anywhere, and precision is only a matter of speed."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bodies import make_bank, make_body_mesh, make_recording
from tiny_network import small_config

from metro_ros.core.errors import ConfigError
from metro_ros.core.skeleton import J14
from training.augment import AugmentConfig, augment
from training.build import MetroConfig, build
from training.checkpoint import load_checkpoint
from training.crop_source import CropSource
from training.motion import mirror, retarget
from training.network import Metro
from training.normalize import Normalize
from training.precision import has_native_bfloat16, set_precision
from training.stages import Stage, disturb_keypoints, stage_loss
from training.synth.samples import SampleConfig, SampleMaker
from training.synth.shards import write_shards
from training.train import TrainConfig, Trainer, learning_rate, main, validate

BANK = make_bank()
MESH = make_body_mesh(BANK)
EASY = SampleConfig(whole_image=0.0, rough=0.0, no_person=0.1, occluded=0.0, rooms=2)
FAST = TrainConfig(batch=6, learning_rate=3e-3, warm_up_steps=1)


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    positions, names, _ = make_recording()
    motion = retarget((positions * [1, -1, -1]).astype(np.float32), names, BANK, "01_01")
    folder = tmp_path_factory.mktemp("crops")
    write_shards(SampleMaker(BANK, MESH, [motion], 0, EASY), folder, seed=1, count=24, size=12)
    return folder


def network() -> tuple[Metro, MetroConfig]:
    torch.manual_seed(0)
    small = small_config("default")
    blocks = tuple(dataclasses.replace(block, dropout=0.0) for block in small.blocks)
    config = dataclasses.replace(small, image_size=128, position_rows=None, blocks=blocks)
    return build(config, MESH), config


def trainer(out: Path, config: TrainConfig = FAST) -> Trainer:
    out.mkdir(exist_ok=True)
    return Trainer(*network(), config, out, seed=5)


@pytest.mark.parametrize("stage", ["backbone", "tokens", "all"])
def test_every_stage_learns(crops: Path, tmp_path: Path, stage: Stage) -> None:
    learner = trainer(tmp_path)
    before = _loss(learner.metro, crops, stage)
    learner.run(CropSource(crops), None, 30, None, stage)
    assert learner.progress.step == 30
    assert _loss(learner.metro, crops, stage) < 0.8 * before


def _loss(metro: Metro, crops: Path, stage: Stage) -> float:
    batch = CropSource(crops).batch(np.random.default_rng(9), 24)
    mask = torch.ones(24, MESH.token_count, 1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return float(
            stage_loss(stage, metro, batch, Normalize()(batch.image), mask, generator, FAST.weights, FAST.side)
        )


class Interrupted(CropSource):
    """Ctrl-C in the middle of a step."""

    def __init__(self, folder: Path, after: int) -> None:
        super().__init__(folder)
        self.left = after

    def batch(self, rng: np.random.Generator, count: int):  # type: ignore[no-untyped-def]
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().batch(rng, count)


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(crops: Path, tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.run(CropSource(crops), None, 6, None, "all")

    first = trainer(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        first.run(Interrupted(crops, after=3), None, 6, None, "all")
    first.save()
    second = trainer(tmp_path / "parts")
    second.resume()
    assert second.progress.step == 3
    second.run(CropSource(crops), None, 6, None, "all")
    for name, value in whole.metro.state_dict().items():
        assert torch.equal(value, second.metro.state_dict()[name]), name


def test_a_finished_run_has_nothing_left_to_do(crops: Path, tmp_path: Path) -> None:
    learner = trainer(tmp_path)
    learner.run(CropSource(crops), None, 2, None, "backbone")
    again = trainer(tmp_path)
    again.resume()
    again.run(Interrupted(crops, after=0), None, 2, None, "backbone")
    assert again.progress.step == 2


def test_the_checkpoint_is_the_network(crops: Path, tmp_path: Path) -> None:
    learner = trainer(tmp_path)
    learner.run(CropSource(crops), CropSource(crops), 2, None, "all")
    loaded, config, _ = load_checkpoint(learner.checkpoint)
    assert config == learner.network
    images = torch.randn(1, 3, 128, 128)
    learner.metro.eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(images).joints, learner.metro(images).joints, atol=1e-6, rtol=1e-5)


def test_weights_come_by_name_from_earlier_stages(crops: Path, tmp_path: Path) -> None:
    earlier = trainer(tmp_path / "earlier")
    with torch.no_grad():
        for parameter in earlier.metro.parameters():
            parameter.add_(1.0)
    earlier.save()
    later = trainer(tmp_path / "later")
    later.start_from(earlier.checkpoint, ("backbone.",))
    taken, own = later.metro.state_dict(), network()[0].state_dict()
    for name, value in earlier.metro.state_dict().items():
        assert torch.equal(taken[name], value if name.startswith("backbone.") else own[name]), name


def test_diverged_training_stops(crops: Path, tmp_path: Path) -> None:
    learner = trainer(tmp_path)
    with torch.no_grad():
        next(learner.metro.parameters()).fill_(float("nan"))
    with pytest.raises(ConfigError, match="diverged"):
        learner.run(CropSource(crops), None, 2, None, "all")


def test_a_missing_motion_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--motions", "nowhere.npz", "--shards", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main([*words, "--cache", str(_cached_bank(tmp_path))]) == 2
    assert "nowhere.npz" in capsys.readouterr().err


def _cached_bank(folder: Path) -> Path:
    """A cache in which the stand-in body lies where the trainer looks for Anny's."""
    from training.body import TRAINING_BANK, BodyBank

    identities, seed = TRAINING_BANK
    fields = {name: getattr(BANK, name) for name in BodyBank.__dataclass_fields__}
    np.savez(folder / f"bodies_{identities}_{seed}.npz", **fields)
    return folder


class KnowsTheTruth(torch.nn.Module):
    """Answers fixed joints."""

    def __init__(self, joints: np.ndarray) -> None:
        super().__init__()
        self.mesh = SimpleNamespace(joint_names=J14)
        self.joints = torch.from_numpy(joints)
        self.template_tokens = torch.zeros(1)

    def forward(self, images: torch.Tensor, levels: int) -> SimpleNamespace:
        return SimpleNamespace(joints=self.joints[: len(images)])


def test_validation_measures_from_the_mid_hip() -> None:
    truth = np.random.default_rng(0).normal(size=(4, 14, 3)).astype(np.float32)
    source = SimpleNamespace(shards=[{"image": np.zeros((4, 8, 8, 3), np.uint8), "joints": truth}])
    moved = validate(KnowsTheTruth(truth + np.float32([1, 2, 3])), source)  # type: ignore[arg-type]
    assert moved == {"mpjpe_mm": pytest.approx(0, abs=1e-3), "pa_mpjpe_mm": pytest.approx(0, abs=1e-3)}
    wrong = truth.copy()
    wrong[:, J14.index("Head"), 1] += 0.14
    assert validate(KnowsTheTruth(wrong), source)["mpjpe_mm"] == pytest.approx(10, abs=1e-3)  # type: ignore[arg-type]


def test_the_schedule_warms_up_and_ends_low() -> None:
    config = TrainConfig(learning_rate=1e-3, final_learning_rate=1e-5, warm_up_steps=10)
    assert learning_rate(config, 0, 0.0) == pytest.approx(1e-4)
    assert learning_rate(config, 50, 0.0) == pytest.approx(1e-3)
    assert learning_rate(config, 50, 0.5) == pytest.approx((1e-3 + 1e-5) / 2)
    assert learning_rate(config, 50, 1.0) == learning_rate(config, 50, 1.7) == pytest.approx(1e-5)


def test_the_papers_schedule_drops_once() -> None:
    config = TrainConfig(learning_rate=1e-4, schedule="step")
    rates = [learning_rate(config, step, step / 10) for step in range(10)]
    assert rates == [1e-4] * 5 + [pytest.approx(1e-5)] * 5


def test_bfloat16_changes_the_arithmetic_and_nothing_else() -> None:
    exact, _ = network()
    rounded, _ = network()
    assert set_precision(rounded, "bf16") == "bf16"
    assert exact.state_dict().keys() == rounded.state_dict().keys()
    images = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        a, b = exact.eval()(images), rounded.eval()(images)
    for one, other in zip(a, b, strict=True):
        for x, y in zip(*((part if isinstance(part, tuple) else (part,)) for part in (one, other)), strict=True):
            assert x.dtype == y.dtype == torch.float32
            torch.testing.assert_close(x, y, atol=0.15, rtol=0.1)
    assert not torch.equal(a.joints, b.joints)


def test_native_bfloat16_is_read_off_the_processor(tmp_path: Path) -> None:
    cpu = tmp_path / "cpuinfo"
    cpu.write_text("flags : avx2 avx512f avx512_bf16 fma\n")
    assert has_native_bfloat16(cpu)
    cpu.write_text("flags : avx2 avx512f fma\n")
    assert not has_native_bfloat16(cpu)
    assert not has_native_bfloat16(tmp_path / "missing")


def test_augmentation_turns_truth_with_the_picture(crops: Path) -> None:
    """The person's mask moves where the keypoints move, and joints turn as keypoints do."""
    batch = CropSource(crops).batch(np.random.default_rng(0), 8)
    config = AugmentConfig(rotation_deg=40.0, rotation_limit_deg=45.0, upright=0.0, log_scale=0.0)
    turned = augment(batch, config, torch.Generator().manual_seed(1))
    seen = (batch.visible[:, 0] > 0) & (batch.visible[:, 2] > 0) & (batch.person > 0)
    assert seen.any()
    for before, after in zip(batch.keypoints[seen], turned.keypoints[seen], strict=True):
        angle = _angle(after) - _angle(before)
        assert abs(np.angle(np.exp(1j * angle))) > 1e-3
    for joints, new in zip(batch.joints, turned.joints, strict=True):
        torch.testing.assert_close(joints.norm(dim=1), new.norm(dim=1))  # turned about the viewing axis, no more
        torch.testing.assert_close(joints[:, 2], new[:, 2])


def _angle(keypoints: torch.Tensor) -> float:
    x, y = (keypoints[2] - keypoints[0]).tolist()
    return float(np.arctan2(y, x))


def test_disturbed_keypoints_say_what_they_know(crops: Path) -> None:
    batch = CropSource(crops).batch(np.random.default_rng(0), 12)
    keypoints, belief = disturb_keypoints(batch, torch.Generator().manual_seed(0))
    assert torch.equal(belief > 0, batch.visible > 0)
    assert (keypoints - batch.keypoints)[batch.visible > 0].abs().mean() < 0.1


def test_a_mirrored_motion_is_the_recording_of_a_mirrored_person() -> None:
    positions, names, _ = make_recording(seed=1)
    camera_axes = (positions * [1, -1, -1]).astype(np.float32)
    swap = [names.index({"l": "r", "r": "l"}[n[0]] + n[1:]) if n[1:] in _SIDED else i for i, n in enumerate(names)]
    reflected = (camera_axes * [-1, 1, 1]).astype(np.float32)[:, swap]
    expected = retarget(reflected, names, BANK)
    got = mirror(retarget(camera_axes, names, BANK), BANK)
    np.testing.assert_allclose(got.rotations, expected.rotations, atol=1e-4)
    np.testing.assert_allclose(got.root, expected.root, atol=1e-6)


_SIDED = ("hipjoint", "femur", "tibia", "foot", "toes", "clavicle", "humerus", "radius", "wrist", "hand", "thumb",
          "fingers")  # fmt: skip
