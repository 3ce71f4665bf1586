"""The finder: frames and their changes, the loss falls, and what is exported is what was trained."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_bundle import make_tiny_bundle

from metro_ros.core.bundle import load_bundle
from metro_ros.core.detect import Detections
from metro_ros.core.errors import ConfigError, SourceError
from metro_ros.core.finder import open_finder
from training.datasets.frames import FrameSet, write_frame_shard
from training.finder import evaluate, export
from training.finder.__main__ import main as train_main
from training.finder.augment import AugmentConfig, augment, letterbox, warp
from training.finder.data import StoredFrames, make_batch
from training.finder.evaluate import Found, best_score, match, recall_precision, report
from training.finder.loss import People, finder_loss
from training.finder.network import FinderConfig, FinderNet
from training.finder.start import read_start
from training.finder.train import LAST, FinderTraining, Trainer, load_finder, run
from training.onnx_graph import ExportError
from training.rounding import rounded_weights
from training.schedule import Length
from training.synth.frames import Frame

TINY = FinderConfig(width=64, height=32, stem=4, blocks=(1, 1, 1))
PLAIN = AugmentConfig(zoomed=0, flip=0, recoloured=0, textured=0, hidden=0, degraded=0)
BOXES = np.array([[3, 2, 21, 30], [30.5, 8, 40, 29], [44, 3, 63, 31]], np.float32)


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
    trainer = Trainer(TINY, FinderTraining(batch=6, learning_rate=5e-3, warm_up_steps=5, ema_decay=0.9), "fp32")
    frames = FrameSet(folder)
    losses = [float(trainer.learn(*make_batch(frames, 6, 0, step, (64, 32), PLAIN), 0.0)) for step in range(80)]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])  # scores are the boxes' IoUs, which rounded weights blur
    images, targets = make_batch(frames, 6, 1, 0, (64, 32), PLAIN)
    with torch.no_grad():
        answers = trainer.average.eval()(images)
    assert finder_loss(answers, targets, 64, 32) < 0.6 * np.mean(losses[:5])


def test_a_loss_that_is_not_finite_ends_training() -> None:
    trainer = Trainer(TINY, FinderTraining(), "fp32")
    wanted = torch.ones(2, 3, dtype=torch.bool)
    people = People(torch.from_numpy(BOXES).expand(2, 3, 4), wanted, ~wanted)
    with torch.no_grad():
        trainer.net.heads[0].box.bias[0] = np.nan
    with pytest.raises(ConfigError, match="loss of step 0"):
        trainer.learn(torch.zeros(2, 32, 64, 3, dtype=torch.uint8), people, 0.0)


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
    config = FinderTraining(batch=2, save_s=0.0, report_s=0.0)
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
    with torch.no_grad():  # no two biases alike, and heads that say something
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d) and module.bias is not None:
                module.bias.normal_(0, 0.1)
        for head in net.heads:
            for last in (head.is_person, head.is_there):
                last.weight.normal_(0, 0.5), last.bias.normal_(0, 0.1)
            head.box.weight.normal_(0, 0.1)
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
    assert part is not None
    with rounded_weights(net):
        for name, value in read_start(bundle.path, TINY).state_dict().items():  # a half's biases
            torch.testing.assert_close(value, net.state_dict()[name], rtol=1e-3, atol=1e-6)
    with pytest.raises(ConfigError, match="one of its size"):
        read_start(bundle.path, FinderConfig(stem=8, blocks=(1, 1, 1)))
    with torch.no_grad():
        net.stem.conv.weight[0, 0, 0, 0] += 1.0
    with pytest.raises(ExportError, match="disagrees"):
        export.check_against_torch(
            part.read_bytes(), export.FinderGraph(net, export.UNCALIBRATED), export.probe_images(64, 32)
        )
    finder = open_finder(bundle, threads=1)
    assert finder is not None and finder.min_score == details["score"]
    assert evaluate.main([*where, "--data", str(folder), "--json", str(tmp_path / "out.json")]) == 0
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["all"] == details["validated"] and figures["by_people"]["2"]["frames"] == 3


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


def test_calibrated_scores_are_shares_of_what_is_right(net: FinderNet) -> None:
    """Scores whose logits are 3 too low and half as steep as they should be; boxes stay as they are."""
    torch.manual_seed(0)
    logits = torch.randn(4000, dtype=torch.float64) * 2
    right = (torch.rand(4000, dtype=torch.float64) < logits.sigmoid()).numpy()
    told = (0.5 * logits - 3).sigmoid().numpy().astype(np.float32)
    nobody = np.zeros(0, np.float32)
    calibration = export.calibrate([Found(told, right.astype(np.int8), 0, nobody, nobody)])
    assert calibration.slope == pytest.approx(2, rel=0.15) and calibration.offset == pytest.approx(6, rel=0.15)
    image = torch.from_numpy(export.probe_images(64, 32))
    with torch.no_grad():
        boxes, scores = export.FinderGraph(net, export.UNCALIBRATED)(image)
        same, calibrated = export.FinderGraph(net, calibration)(image)
    torch.testing.assert_close(same, boxes)
    torch.testing.assert_close(
        torch.logit(calibrated), calibration.slope * torch.logit(scores) + calibration.offset, atol=1e-3, rtol=1e-3
    )
    all_wrong = Found(told, np.zeros(4000, np.int8), 0, nobody, nobody)
    assert export.calibrate([all_wrong]) == export.UNCALIBRATED


def test_calibration_is_set_in_the_model_and_in_what_was_measured(net: FinderNet) -> None:
    calibration = export.Calibration(1.5, -0.5)
    model, images = export.export_onnx(net), export.probe_images(64, 32)
    with rounded_weights(net):
        export.check_against_torch(model, export.FinderGraph(net, export.UNCALIBRATED), images)
        graph = export.FinderGraph(net, calibration)
        export.check_against_torch(export.set_calibration(model, calibration), graph, images)
        with pytest.raises(ExportError, match="disagrees"):
            export.check_against_torch(model, graph, images)
    found = Found(np.float32([0.8, 0.5]), np.int8([1, 0]), 2, np.float32([1, 1]), np.float32([0.8, 0]))
    (told,) = export.rescored([found], calibration)
    np.testing.assert_allclose(told.scores, 1 / (1 + np.exp(0.5 - 1.5 * np.log([4, 1]))), rtol=1e-5)
    assert told.caught.tolist() == [told.scores[0], 0]


def test_a_score_may_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    found = Found(np.float32([0.8, 0.5]), np.int8([1, 0]), 1, np.float32([1]), np.float32([0.8]))
    assert export.choose([found], None)[0] > 0.5
    assert export.choose([found], 0.07) == (0.07, {"people": 1, "recall": 1.0, "precision": 0.5})
    where = ["--checkpoint", str(tmp_path / LAST), "--bundle", str(tmp_path), "--validation", str(tmp_path)]
    assert export.main([*where, "--score", "1.5"]) == 2 and "score: expected above 0" in capsys.readouterr().err
