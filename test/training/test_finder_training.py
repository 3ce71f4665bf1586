"""The finder: targets and decoding undo each other, the loss falls, and what is exported is what was trained."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny_bundle import make_tiny_bundle

from metro_ros.core.bundle import Bundle, add_part, load_bundle
from metro_ros.core.detect import Detections
from metro_ros.core.errors import ConfigError, SourceError
from metro_ros.core.finder import open_finder
from training.datasets.frames import FrameSet, write_frame_shard
from training.finder import evaluate, export
from training.finder.__main__ import main as train_main
from training.finder.augment import AugmentConfig, augment, letterbox, warp
from training.finder.data import StoredFrames, make_batch
from training.finder.evaluate import Found, best_score, match, recall_precision, report
from training.finder.loss import TargetBatch, finder_loss, focal_loss, giou_loss
from training.finder.network import FinderConfig, FinderNet, Maps, decode
from training.finder.start import start_from
from training.finder.targets import make_targets
from training.finder.train import LAST, FinderTraining, Trainer, load_finder, run
from training.onnx_graph import ExportError
from training.schedule import Length
from training.synth.frames import Frame

TINY = FinderConfig(width=64, height=32, stem=8, channels=(8, 8, 8, 8), blocks=(1, 1, 1, 1), pyramid=8)
PLAIN = AugmentConfig(zoomed=0, flip=0, recoloured=0, textured=0, hidden=0, degraded=0)
BOXES = np.array([[3, 2, 21, 30], [30.5, 8, 40, 29], [44, 3, 63, 31]], np.float32)
NONE = np.zeros(3, bool)


def _frame(boxes: np.ndarray = BOXES, width: int = 64, height: int = 32) -> Frame:
    """White boxes on black: nothing is easier to find."""
    image = np.zeros((height, width, 3), np.uint8)
    for left, top, right, bottom in boxes.round().astype(int):
        image[top:bottom, left:right] = 255
    return Frame(image, boxes.astype(np.float32), np.ones(len(boxes), np.float32))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    frames = []
    for count in (0, 1, 2, 2, 1, 2):
        left = np.array([2, 34])[:count] + rng.integers(0, 10, count)
        boxes = np.stack([left, left * 0 + 4, left + 14, left * 0 + 28], axis=1).reshape(-1, 4)
        frames.append(_frame(boxes.astype(np.float32)))
    write_frame_shard(tmp_path / "frames" / "a.npz", frames)
    return tmp_path / "frames"


def _as_maps(targets: list) -> Maps:
    """A network that answers with the targets themselves."""
    batch = [torch.from_numpy(np.stack(maps)) for maps in zip(*targets, strict=True)]
    return Maps(torch.logit(batch[0].clamp(1e-4, 1 - 1e-4)), batch[2])


def test_targets_as_answers_give_the_boxes_back() -> None:
    boxes, scores = decode(_as_maps([make_targets(BOXES, NONE, 64, 32)]), 8)
    assert (scores[0] > 0.9).sum() == 3 and (scores[0].diff() <= 0).all()
    order = boxes[0, :3, 0].argsort()
    np.testing.assert_allclose(boxes[0, :3][order], BOXES, atol=1e-3)


def test_the_smaller_of_two_boxes_has_the_cells_that_both_want() -> None:
    nested = np.array([[22, 8, 34, 24], [2, 1, 54, 31]], np.float32)  # almost one centre
    targets = make_targets(nested, NONE[:2], 64, 32)
    row, column = (16 // 4), (28 // 4)
    assert targets.sides[:, row, column].tolist() == [8, 10, 4, 6]
    assert targets.taught.sum() <= 2 + 1e-5


def test_who_is_ignored_is_neither_found_nor_missed() -> None:
    targets = make_targets(BOXES, np.array([False, True, False]), 64, 32)
    assert (targets.heat == 1).sum() == 2
    assert not targets.counts[2:7, 8:10].any() and targets.counts[:, :7].all()


def test_the_centre_of_someone_large_is_many_cells_as_heavy_as_one() -> None:
    boxes = np.array([[8, 8, 200, 248], [20, 20, 40, 60], [60, 60, 180, 200]], np.float32)
    targets = make_targets(boxes, np.array([False, False, True]), 256, 256)
    assert 1 < (targets.heat == 1).sum() < 100
    assert targets.counts[targets.heat == 1].sum() == pytest.approx(2, rel=1e-5)
    logits = torch.zeros(1, 64, 64)
    heat, counts = (torch.from_numpy(maps)[None] for maps in targets[:2])
    alone = focal_loss(logits, heat, counts * (heat == 1))
    assert alone.item() == pytest.approx(np.log(2) / 4)  # of a person, whatever their size


def test_the_loss_is_least_for_the_targets() -> None:
    targets = make_targets(BOXES, NONE, 64, 32)
    batch = TargetBatch(*(torch.from_numpy(maps)[None] for maps in targets))
    right = _as_maps([targets])
    least = finder_loss(right, batch)
    assert least < 0.05
    assert finder_loss(right._replace(sides=right.sides * 1.5), batch) > least + 0.3
    assert finder_loss(right._replace(heat=-right.heat), batch) > least + 3


def test_giou_of_boxes_that_are_known() -> None:
    sides = torch.tensor([1.0, 1, 1, 1]).reshape(1, 4, 1, 1)
    wanted = torch.tensor([1.0, 1, 3, 1]).reshape(1, 4, 1, 1)
    weight = torch.ones(1, 1, 1)
    assert giou_loss(sides, wanted, weight).item() == pytest.approx(0.5)  # IoU 4/8, and the hull is the larger box
    crossed = torch.tensor([3.0, 1, 1, 3]).reshape(1, 4, 1, 1)  # 4x4 and 4x2 share 2x2; hull 6x4 or so
    shared, union, hull = 2 * 2, 4 * 4 + 4 * 2 - 2 * 2, 6 * 4
    expected = 1 - (shared / union - (hull - union) / hull)
    assert giou_loss(crossed, wanted, weight).item() == pytest.approx(expected)


def test_the_plain_letterbox_lies_in_the_middle() -> None:
    frame = warp(_frame(), *letterbox(64, 32, 40, 40), 40, 40)
    np.testing.assert_allclose(frame.boxes, BOXES * 0.625 + [0, 10, 0, 10])
    left, top, right, bottom = frame.boxes[0].round().astype(int)
    inside = frame.image[top + 1 : bottom - 1, left + 1 : right - 1]
    assert (inside > 250).all() and not frame.image[:10].any() and not frame.image[30:].any()


def test_who_leaves_the_image_is_seen_by_so_much_less() -> None:
    frame = warp(_frame(), 1.0, -12.0, 0.0, 64, 32)
    np.testing.assert_allclose(frame.visible, [0.5, 1, 1])
    np.testing.assert_allclose(frame.boxes[0], [0, 2, 9, 30])


def test_boxes_stay_on_what_they_are_around_when_mirrored_and_zoomed() -> None:
    config = AugmentConfig(zoomed=1, zoom=(0.6, 1.4), flip=0.5, recoloured=0, textured=0, hidden=0, degraded=0)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        frame, _ = augment(_frame(BOXES[1:2]), _frame, 64, 48, rng, config)
        rows, columns = np.nonzero(frame.image[..., 0] > 127)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(frame.boxes[0], seen, atol=1.1)


def test_every_look_keeps_type_and_shape_and_changes_the_picture() -> None:
    rng = np.random.default_rng(0)
    config = AugmentConfig(zoomed=0, flip=0, recoloured=1, textured=1, hidden=1, degraded=1)
    for _ in range(20):
        frame, ignored = augment(_frame(), lambda: _frame(BOXES[:0]), 64, 32, rng, config)
        assert frame.image.dtype == np.uint8 and frame.image.shape == (32, 64, 3)
        assert frame.boxes.dtype == frame.visible.dtype == np.float32 and len(ignored) == len(frame.boxes)
        assert (frame.image != _frame().image).any()


def test_what_is_pasted_over_someone_hides_them() -> None:
    config = AugmentConfig(zoomed=0, flip=0, recoloured=0, textured=0, hidden=1, degraded=0)
    hidden = 0
    for seed in range(30):
        frame, _ = augment(_frame(BOXES[::2]), lambda: _frame(BOXES[:0]), 64, 32, np.random.default_rng(seed), config)
        for (left, top, right, bottom), visible in zip(frame.boxes.round().astype(int), frame.visible, strict=True):
            white = (frame.image[top:bottom, left:right] > 0).mean()
            assert visible <= white + 0.05  # pieces that overlap are counted twice
            hidden += visible < 0.95
    assert hidden > 10


def test_frames_come_back_from_their_shards(tmp_path: Path) -> None:
    wanted = [_frame(), _frame(BOXES[:0]), _frame(BOXES[1:])]
    write_frame_shard(tmp_path / "b.npz", wanted[:2])
    frames = FrameSet(tmp_path)
    write_frame_shard(tmp_path / "a.npz", wanted[2:])
    assert len(frames) == 2 and frames.refresh() == 1 and frames.refresh() == 0
    for frame, (image, boxes, visible) in zip(wanted, (frames[0], frames[1], frames[2]), strict=True):
        assert np.abs(image.astype(int) - frame.image).mean() < 4
        np.testing.assert_array_equal(boxes, frame.boxes)
        np.testing.assert_array_equal(visible, frame.visible)


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="frames in"):
        FrameSet(tmp_path)
    write_frame_shard(tmp_path / "a.npz", [_frame()])
    arrays = dict(np.load(tmp_path / "a.npz"))
    np.savez(tmp_path / "b.npz", **{**arrays, "people_ends": np.array([4])})
    with pytest.raises(SourceError, match=r"b\.npz, people_ends"):
        FrameSet(tmp_path)
    np.savez(tmp_path / "b.npz", **{**arrays, "jpeg": arrays["jpeg"] * 0})
    with pytest.raises(SourceError, match="JPEG"):
        FrameSet(tmp_path)[1]


def test_the_loss_falls_to_finding_what_it_has_seen(folder: Path) -> None:
    trainer = Trainer(TINY, FinderTraining(batch=6, learning_rate=2e-2, warm_up_steps=5, ema_decay=0.9), "fp32")
    frames = FrameSet(folder)
    losses = [float(trainer.learn(*make_batch(frames, 6, 0, step, (64, 32), PLAIN), 0.0)) for step in range(60)]
    assert np.mean(losses[-10:]) < 0.35 * np.mean(losses[:5])
    images, targets = make_batch(frames, 6, 1, 0, (64, 32), PLAIN)
    with torch.no_grad():
        maps = trainer.average.eval()(images)
    assert finder_loss(maps, targets) < 0.5 * np.mean(losses[:5])


def test_a_loss_that_is_not_finite_ends_training() -> None:
    trainer = Trainer(TINY, FinderTraining(), "fp32")
    targets = make_targets(BOXES, NONE, 64, 32)
    batch = TargetBatch(*(torch.from_numpy(maps)[None].expand(2, *maps.shape) for maps in targets))
    with pytest.raises(ConfigError, match="loss of step 0"):
        trainer.learn(
            torch.zeros(2, 32, 64, 3, dtype=torch.uint8), batch._replace(sides=batch.sides * np.float32(np.nan)), 0.0
        )


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, folder: Path) -> None:
    config = FinderTraining(batch=4)
    frames = FrameSet(folder)

    def steps(trainer: Trainer, first: int, last: int) -> list[float]:
        return [float(trainer.learn(*make_batch(frames, 4, 0, n, (64, 32), PLAIN), 0.1)) for n in range(first, last)]

    whole = Trainer(TINY, config, "fp32")
    steps(whole, 0, 3)
    whole.save(tmp_path / LAST)
    curve = steps(whole, 3, 6)
    again = Trainer(TINY, FinderTraining(batch=4, seed=5), "fp32")
    again.restore(tmp_path / LAST)
    assert steps(again, again.step, 6) == curve
    for name, value in whole.average.state_dict().items():
        torch.testing.assert_close(again.average.state_dict()[name], value, rtol=0, atol=0)


def test_training_ends_after_its_length_and_is_resumed(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    config = FinderTraining(batch=2, save_s=0.0, report_s=0.0, early_size=(32, 32))
    trainer = Trainer(TINY, config, "fp32")
    feed = StoredFrames(FrameSet(folder), TINY, config, PLAIN)
    out = tmp_path / "run"
    out.mkdir()
    run(trainer, feed, out, Length(steps=3))
    assert trainer.step == 3 and trainer.seconds > 0
    run(trainer, feed, out, Length(minutes=1e-9))  # was over before
    assert trainer.step == 3
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1
    assert load_finder(out / LAST).config == TINY
    arguments = ["--frames", str(folder), "--out", str(out), "--minutes", "1"]
    assert train_main(arguments) == 2 and "--resume" in capsys.readouterr().err
    assert train_main([*arguments, "--resume"]) == 2  # another network than the command line's
    assert "a run of the finder" in capsys.readouterr().err
    assert train_main(["--frames", str(folder), "--out", str(tmp_path / "new"), "--minutes", "0"]) == 2


@pytest.fixture
def net() -> FinderNet:
    torch.manual_seed(0)
    net = FinderNet(TINY)
    with torch.no_grad():  # batch norms that do something, a head that says something
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3), module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5), module.bias.normal_(0, 0.3)
        net.head.weight.normal_(0, 0.5)
    return net.eval()


def test_a_trained_finder_becomes_a_part_that_is_evaluated(
    tmp_path: Path, folder: Path, net: FinderNet, capsys: pytest.CaptureFixture
) -> None:
    make_tiny_bundle(tmp_path / "bundle")
    trainer = Trainer(TINY, FinderTraining(), "fp32")
    trainer.average.load_state_dict(net.state_dict())
    trainer.save(tmp_path / LAST)
    where = ["--bundle", str(tmp_path / "bundle")]
    assert evaluate.main([*where, "--data", str(folder)]) == 2 and "a bundle with a finder" in capsys.readouterr().err
    assert export.main(["--checkpoint", str(tmp_path / LAST), *where, "--validation", str(folder)]) == 0
    bundle = load_bundle(tmp_path / "bundle")
    details = bundle.manifest.parts["finder"].details
    assert (details["width"], details["height"]) == (64, 32) and details["validated"]["people"] == 8
    part = bundle.part_file("finder")
    assert part is not None and not any(n.op_type == "BatchNormalization" for n in onnx.load(part).graph.node)
    with torch.no_grad():
        net.stem[0].weight[0, 0, 0, 0] += 1.0
    with pytest.raises(ExportError, match="disagrees"):
        export.check_against_torch(part.read_bytes(), net, export.probe_images(64, 32))
    finder = open_finder(bundle, threads=1)
    assert finder is not None and finder.min_score == details["score"]
    assert evaluate.main([*where, "--data", str(folder), "--json", str(tmp_path / "out.json")]) == 0
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["all"] == details["validated"] and figures["by_people"]["2"]["frames"] == 3


def _bundle_of(weights: dict[str, torch.Tensor], path: Path) -> Bundle:
    """A bundle whose network has these weights in its backbone; the rest of the graph is left out."""
    path.mkdir()
    entries = [onnx.numpy_helper.from_array(v.numpy(), f"folded.backbone.{name}") for name, v in weights.items()]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "backbone", [], [], entries)), path / "model.onnx")
    return replace(make_tiny_bundle(path / "tiny"), path=path)


def test_a_finder_begins_with_what_a_bundle_sees(tmp_path: Path, folder: Path, net: FinderNet) -> None:
    frames = FrameSet(folder)
    images, _ = make_batch(frames, 6, 0, 0, (64, 32), PLAIN)
    trainer = Trainer(replace(TINY, channels=(8, 8, 16, 8)), FinderTraining(), "fp32")
    before = trainer.net.stages[2][0].conv1.weight.clone()
    taken = start_from(trainer, _bundle_of(export.fold(net).state_dict(), tmp_path / "bundle"), images)
    assert "stages.1.0.conv2" in taken and "stages.2.0.conv1" not in taken
    torch.testing.assert_close(trainer.net.stages[2][0].conv1.weight, before)
    with torch.no_grad():
        x = torch.rand(2, 3, 32, 64)
        for ours in (trainer.net, trainer.average):
            seen, wanted = (
                ours.eval().stages[1](ours.stages[0](ours.stem(x))),
                net.stages[1](net.stages[0](net.stem(x))),
            )
            torch.testing.assert_close(seen, wanted, rtol=1e-3, atol=1e-3)
    assert trainer.net.train()(images).heat.isfinite().all()


def test_a_finder_goes_on_from_the_bundle_s_own(tmp_path: Path, folder: Path, net: FinderNet) -> None:
    frames = FrameSet(folder)
    weights = export.fold(net).state_dict()
    entries = [onnx.numpy_helper.from_array(value.numpy(), f"net.{name}") for name, value in weights.items()]
    part = onnx.helper.make_model(onnx.helper.make_graph([], "finder", [], [], entries)).SerializeToString()
    bundle = add_part(make_tiny_bundle(tmp_path / "b"), "finder", part, {})
    trainer = Trainer(TINY, FinderTraining(), "fp32")
    images, _ = make_batch(frames, 6, 0, 0, (64, 32), PLAIN)
    taken = start_from(trainer, bundle, images)
    assert {"head", "laterals.0", "smooth.0", "stages.3.0.conv2"} <= set(taken)
    with torch.no_grad():
        for ours in (trainer.net.eval(), trainer.average.eval()):
            torch.testing.assert_close(ours(images).heat, net.eval()(images).heat, rtol=1e-3, atol=1e-3)


def test_a_backbone_of_another_shape_is_refused(tmp_path: Path) -> None:
    trainer = Trainer(TINY, FinderTraining(), "fp32")
    images = torch.zeros(2, 32, 64, 3, dtype=torch.uint8)
    with pytest.raises(ConfigError, match=r"stem\.0"):
        start_from(trainer, _bundle_of({"stem.0.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "bundle"), images)


def test_every_person_is_found_by_one_detection() -> None:
    frame = Frame(_frame().image, BOXES, np.array([1, 0.1, 1], np.float32))  # the second counts for nothing
    near = BOXES[0] + np.float32([1, 0, 1, 0]) - np.float32(0.5)
    boxes = np.stack([near, BOXES[0] - np.float32(0.5), BOXES[1] - np.float32(0.5), [0, 0, 4, 4]]).astype(np.float32)
    answer = match(Detections(boxes, np.array([0.9, 0.8, 0.7, 0.6], np.float32)), frame)
    assert answer.right.tolist() == [1, 0, -1, 0] and answer.people == 2
    np.testing.assert_allclose(answer.caught, [0.9, 0])
    assert recall_precision([answer], 0.5) == {"people": 2, "recall": 0.5, "precision": 0.3333}
    assert recall_precision([answer], 0.85) == {"people": 2, "recall": 0.5, "precision": 1.0}
    assert best_score([answer])[0] > 0.8
    assert report([answer], 0.5)["by_height"]["0.6 to 1"] == {"people": 2, "recall": 0.5}


def test_an_empty_frame_counts_what_is_wrong() -> None:
    nobody = Found(np.float32([0.6]), np.int8([0]), 0, np.zeros(0, np.float32), np.zeros(0, np.float32))
    figures = report([nobody], 0.5)
    assert figures["by_people"]["0"] == {"frames": 1, "false_per_frame": 1.0}
    assert figures["all"]["recall"] == 0


def test_calibrated_scores_are_shares_of_what_is_right() -> None:
    """A head whose logits are 3 too low and half as steep as they should be, and nothing but its scores changes."""
    torch.manual_seed(0)
    net = FinderNet(TINY)
    logits = torch.randn(4000, dtype=torch.float64) * 2
    right = (torch.rand(4000, dtype=torch.float64) < logits.sigmoid()).numpy()
    told = (0.5 * logits - 3).sigmoid().numpy().astype(np.float32)
    nobody = np.zeros(0, np.float32)
    calibrated = export.calibrate(net, [Found(told, right.astype(np.int8), 0, nobody, nobody)])
    assert net.head.bias is not None and calibrated.head.bias is not None
    heat = torch.randn(2, net.head.in_channels, 3, 3)
    before, after = net.head(heat), calibrated.head(heat)
    torch.testing.assert_close(after[:, 1:], before[:, 1:])
    torch.testing.assert_close(after[:, 0], 2 * (before[:, 0] + 3), atol=0.4, rtol=0.1)
    all_wrong = Found(told, np.zeros(4000, np.int8), 0, nobody, nobody)
    assert export.calibrate(net, [all_wrong]) is net
