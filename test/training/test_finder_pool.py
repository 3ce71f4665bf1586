"""The finder's training on a device: its changes are those of single frames, from source to checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from write_fixtures import write_default

from training.finder.__main__ import main
from training.finder.augment import AugmentConfig
from training.finder.device_augment import augment_batch
from training.finder.loss import People, finder_loss
from training.finder.network import Answers, FinderConfig, FinderNet
from training.finder.stream import PEOPLE, FrameRows, lay_out
from training.finder.train import LAST, load_finder
from training.synth.frames import Frame

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
NOTHING = AugmentConfig(zoomed=0, flip=0, recoloured=0, textured=0, hidden=0, degraded=0)
WIDTH, HEIGHT = 96, 64


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _rows(frames: list[Frame]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in lay_out(frames, WIDTH, HEIGHT).items()}


def _frame(*boxes: tuple[int, int, int, int], width: int = WIDTH, height: int = HEIGHT) -> Frame:
    """White boxes on black."""
    image = np.zeros((height, width, 3), np.uint8)
    for left, top, right, bottom in boxes:
        image[top:bottom, left:right] = 255
    return Frame(image, np.array(boxes, np.float32).reshape(-1, 4), np.ones(len(boxes), np.float32))


def _random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Overlapping, clipped at the edges, and some a pixel wide."""
    centre, half = rng.uniform(0, [WIDTH, HEIGHT], (count, 2)), np.exp(rng.uniform(0, np.log(60), (count, 2))) / 2
    corners = np.concatenate([centre - half, centre + half], axis=1)
    return corners.clip(0, [WIDTH, HEIGHT, WIDTH, HEIGHT]).astype(np.float32)


def test_rows_hold_letterboxed_frames_and_the_nearest_people() -> None:
    crowd = Frame(
        np.zeros((40, 120, 3), np.uint8), np.tile(np.float32([3, 3, 9, 9]), (10, 1)), np.arange(10, dtype=np.float32)
    )
    rows = lay_out([_frame((10, 8, 30, 40)), crowd], WIDTH, HEIGHT)
    assert rows["image"].shape == (2, HEIGHT, WIDTH, 3) and rows["present"].sum(axis=1).tolist() == [1, PEOPLE]
    np.testing.assert_array_equal(rows["boxes"][0, :2], [[10, 8, 30, 40], [0, 0, 0, 0]])
    np.testing.assert_allclose(rows["content"], [[0, 0, WIDTH, HEIGHT], [0, 16, WIDTH, 48]])
    np.testing.assert_allclose(rows["visible"][1], np.arange(2, 10), rtol=1e-5)


def test_no_change_leaves_images_and_boxes() -> None:
    rng = np.random.default_rng(0)
    noise = Frame(
        rng.integers(0, 256, (50, 60, 3), np.uint8), _random_boxes(rng, 3).clip(0, 50), np.ones(3, np.float32)
    )
    rows = _rows([noise, _frame((10, 8, 30, 40)), _frame()])
    examples = augment_batch(rows, _generator(), NOTHING)
    assert torch.equal(examples.images, rows["image"]) and examples.images.is_contiguous()
    torch.testing.assert_close(examples.boxes[1], rows["boxes"][1])
    assert examples.present.sum(1)[1:].tolist() == [1, 0] and not examples.ignored[1:].any()
    barely = AugmentConfig(  # who fills the image has no room to move in
        zoomed=1, zoom=(1.0, 1.0), flip=0, recoloured=0, textured=0, hidden=0, degraded=0
    )
    full = _rows([Frame(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), *_frame()[1:])] * 2)
    assert torch.equal(augment_batch(full, _generator(), barely).images, full["image"])


def test_who_is_small_or_hardly_seen_is_ignored_and_slivers_are_dropped() -> None:
    frame = _frame((10, 8, 30, 40), (40, 8, 60, 18), (70, 8, 90, 40), (92, 8, 93, 40))
    frame.visible[2] = 0.1
    examples = augment_batch(_rows([frame, frame]), _generator(), NOTHING)
    assert examples.present[0].tolist()[:4] == [True, True, True, False]
    assert examples.ignored[0].tolist()[:4] == [False, True, True, False]
    assert not examples.boxes[0, 3:].any() and not examples.visible[0, 3:].any()


@pytest.mark.parametrize("size", [(96, 64), (60, 60), (120, 50)])
def test_boxes_move_with_the_picture(size: tuple[int, int]) -> None:
    config = AugmentConfig(zoomed=0.8, flip=0.5, recoloured=0, textured=0, hidden=0, degraded=0)
    rng = np.random.default_rng(1)
    frames = []
    for _ in range(40):
        left, top = rng.integers(2, 30), rng.integers(2, 20)
        frames.append(_frame((left, top, left + 20, top + 24), width=size[0], height=size[1]))
    rows = _rows(frames)
    examples = augment_batch(rows, _generator(), config)
    moved = 0
    for image, box, present, visible in zip(
        examples.images, examples.boxes[:, 0], examples.present[:, 0], examples.visible[:, 0], strict=True
    ):
        bright_rows, bright_columns = np.nonzero(image[..., 0].numpy() > 127)
        if not present:
            assert len(bright_rows) < 2 * HEIGHT
            continue
        left, top, right, bottom = box.tolist()
        seen = [bright_columns.min(), bright_rows.min(), bright_columns.max() + 1, bright_rows.max() + 1]
        np.testing.assert_allclose([left, top, right, bottom], seen, atol=1.5)
        assert 0 < visible <= 1.0001
        whole = left > 0.1 and top > 0.1 and right < WIDTH - 0.1 and bottom < HEIGHT - 0.1
        assert not whole or visible == pytest.approx(1, abs=1e-3)
        moved += 1
    assert moved > 25 and not torch.equal(examples.boxes, rows["boxes"])


def test_every_look_changes_pictures_and_not_the_bars() -> None:
    rng = np.random.default_rng(0)
    frames = [Frame(rng.integers(60, 200, (20, 96, 3), np.uint8), *_frame()[1:]) for _ in range(16)]
    rows = _rows(frames)
    for name in ("recoloured", "textured", "degraded"):
        settings = {"zoomed": 0, "flip": 0, "recoloured": 0, "textured": 0, "hidden": 0, "degraded": 0, name: 1}
        images = augment_batch(rows, _generator(), AugmentConfig(**settings)).images  # type: ignore[arg-type]
        changed = (images != rows["image"]).flatten(1).any(1)
        assert changed.float().mean() > 0.7 and images.dtype == torch.uint8
        assert not images[:, :20].any() and not images[:, -20:].any()
        means = images[:, 24:40].float().mean((1, 2, 3))
        assert (means > 5).all() and (means < 250).all()
    half = augment_batch(rows, _generator(), AugmentConfig(zoomed=0, flip=0, hidden=0, textured=0, degraded=0)).images
    assert 0 < (half == rows["image"]).flatten(1).all(1).sum() < 12


def test_what_is_pasted_over_someone_hides_them() -> None:
    config = AugmentConfig(zoomed=0, flip=0, recoloured=0, textured=0, hidden=1, degraded=0)
    rows = _rows([_frame((10, 4, 80, 60)), _frame()] * 30)
    examples = augment_batch(rows, _generator(), config)
    white = (examples.images[::2, 4:60, 10:80, 0] > 0).float().mean((1, 2))
    visible = examples.visible[::2, 0]
    assert ((visible - white).abs() < 0.05).all()  # as if pieces lay there independently of each other
    assert ((visible - white).abs() < 0.01).sum() > 20 and (visible < 0.95).sum() > 10
    assert not examples.images[1::2].any()  # nobody is pasted with the background


def test_the_same_seed_gives_the_same_examples() -> None:
    rows = _rows([_frame((10, 8, 30, 40)), _frame((40, 8, 60, 50))])
    one, same, other = (augment_batch(rows, _generator(seed), AugmentConfig()) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True)) and not torch.equal(one.images, other.images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_has_the_same_loss_and_keeps_everything_to_itself() -> None:
    rows = {name: field.cuda() for name, field in _rows([_frame((10, 8, 30, 40)), _frame((40, 8, 60, 50))] * 4).items()}
    examples = augment_batch(rows, torch.Generator("cuda").manual_seed(0), AugmentConfig())
    people = People(examples.boxes, examples.present & ~examples.ignored, examples.ignored)
    with torch.no_grad():
        answers = FinderNet(FinderConfig(WIDTH, HEIGHT, stem=4, blocks=(1, 1, 1)))(examples.images.cpu())
        there = Answers(*(values.cuda() for values in answers))
    torch.cuda.set_sync_debug_mode("error")
    try:
        examples = augment_batch(rows, torch.Generator("cuda").manual_seed(1), AugmentConfig())
        loss = finder_loss(there, people, WIDTH, HEIGHT)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(part.is_cuda for part in examples)
    here = finder_loss(answers, People(*(values.cpu() for values in people)), WIDTH, HEIGHT)
    torch.testing.assert_close(loss.cpu(), here, atol=1e-4, rtol=1e-4)
    same = augment_batch(rows, torch.Generator("cuda").manual_seed(0), NOTHING)
    assert torch.equal(same.images, rows["image"])


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fixtures")
    write_default(folder)
    return folder


def test_processes_draw_other_frames_and_each_the_same_again(fixtures: Path) -> None:
    rows = FrameRows(fixtures / "motions.npz", cache=fixtures, chunk=2, rooms=2)
    one, same, other = (next(rows.chunks(process)) for process in (0, 0, 1))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["image"], other["image"])


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_on_frames_drawn_meanwhile_ends_and_goes_on(device: str, fixtures: Path, tmp_path: Path) -> None:
    drawn = ["--motions", str(fixtures / "motions.npz"), "--exclude", "02_01", "--cache", str(fixtures)]
    small = ["--workers", "1", "--pool", "32", "--wait", "16", "--rooms", "2", "--batch", "4", "--device", device]
    arguments = [*drawn, *small, "--out", str(tmp_path / "run")]
    assert main([*arguments, "--steps", "2"]) == 0
    before = load_finder(tmp_path / "run" / LAST).state_dict()
    assert main([*arguments, "--steps", "3", "--resume"]) == 0
    after = load_finder(tmp_path / "run" / LAST).state_dict()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3] and all(16 <= line["frames"] <= 32 for line in lines)
    assert not torch.equal(before["stem.conv.weight"], after["stem.conv.weight"])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "either --frames DIR or --motions FILE.npz, got neither"),
        (["--frames", "a", "--motions", "b"], "got both"),
        (["--frames", "a", "--workers", "2", "--exclude", "c"], "--exclude, --workers"),
        (["--motions", "a", "--workers", "0"], "workers: expected 1 or more, got 0"),
        (["--motions", "a", "--batch", "64", "--pool", "63"], "pool: expected 64 or more, got 63"),
        (["--motions", "a", "--batch", "1"], "batch: expected 2 or more"),
        (["--motions", "a", "--photographs", "b"], "--photographs: expected --start-from too"),
        (["--motions", "no_such.npz", "--pool", "64"], "no_such.npz"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(
    arguments: list[str], why: str, tmp_path: Path, fixtures: Path, capsys: pytest.CaptureFixture
) -> None:
    cache = ["--cache", str(fixtures)] if "no_such.npz" in arguments else []
    assert main([*arguments, *cache, "--out", str(tmp_path / "run"), "--steps", "1", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert why in said and said.startswith("finder: ") and said.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--motions", "a", "--out", str(tmp_path), "--steps", "1", "--device", "cuda"]
    assert main(arguments) == 2 and "a GPU that torch can use" in capsys.readouterr().err
