"""How long training is and what the learning rate is there."""

from dataclasses import replace

import pytest

from metro_ros.core.errors import ConfigError
from training.presets import PRESETS, default, paper_3dpw, paper_body, paper_hand
from training.schedule import Length, learning_rate
from training.train_options import configure, parser, run_length, validation_interval

STEPS = Length(steps=100)


def test_the_cosine_warms_up_and_ends_low() -> None:
    config = replace(default(), learning_rate=1e-3, final_learning_rate=1e-5, warm_up_steps=10)
    assert learning_rate(config, STEPS, 0, 0.0) == pytest.approx(1e-4)
    assert learning_rate(config, STEPS, 50, 0.0) == pytest.approx(1e-3)
    assert learning_rate(config, STEPS, 50, 0.5) == pytest.approx((1e-3 + 1e-5) / 2)
    assert learning_rate(config, STEPS, 50, 1.0) == learning_rate(config, STEPS, 50, 1.7) == pytest.approx(1e-5)


@pytest.mark.parametrize(("epochs", "first_low"), [(200, 100), (5, 3), (4, 2)])
def test_the_papers_schedule_drops_once_between_two_epochs(epochs: int, first_low: int) -> None:
    """lr0 * 0.1 ** floor(epoch / (epochs / 2))."""
    config, length = paper_body(), Length(steps=epochs * 7, epochs=epochs)
    rates = [learning_rate(config, length, step, length.share(step, 0.0)) for step in range(epochs * 7)]
    assert rates[: first_low * 7] == [1e-4] * (first_low * 7)
    assert rates[first_low * 7 :] == [pytest.approx(1e-5)] * ((epochs - first_low) * 7)


def test_length_counts_steps_or_minutes() -> None:
    assert Length(steps=40).share(10, 1e9) == 0.25
    assert Length(minutes=2.0).share(10**6, 30.0) == 0.25
    for wrong in ({}, {"steps": 5, "minutes": 1.0}, {"steps": 0}, {"minutes": -1.0}):
        with pytest.raises(ConfigError):
            Length(**wrong)  # type: ignore[arg-type]


def test_the_papers_numbers() -> None:
    body, fine_tuned, hand = paper_body(), paper_3dpw(), paper_hand()
    assert (body.batch, body.epochs, body.learning_rate, body.weight_decay) == (30, 200, 1e-4, 0.0)
    assert (fine_tuned.epochs, fine_tuned.learning_rate, fine_tuned.network) == (5, 1e-4, "paper_body")
    assert (hand.batch, hand.epochs, hand.augment.flip) == (32, 200, 0.0)
    assert body.objective.regressed and body.objective.levels is None and body.objective.side is None
    assert body.objective.weights.joints == 1000 and hand.objective.weights.levels == (0.5, 0.5)


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"accumulate": 0}, {"learning_rate": 0.0}, {"ema_decay": 1.0}, {"network": "yolo"}]
)
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        replace(PRESETS["default"](), **wrong)


def test_validation_comes_every_epoch_where_there_are_epochs() -> None:
    options = parser().parse_args(["--out", "x", "--data", "shards:x", "--validation", "shards:y"])
    assert validation_interval(options, Length(steps=700, epochs=7)) == 100
    assert validation_interval(options, Length(minutes=3.0)) == 500
    options.validate_every = 20
    assert validation_interval(options, Length(steps=700, epochs=7)) == 20


def test_surface_losses_are_an_option() -> None:
    options = parser().parse_args(["--out", "x", "--data", "shards:x", "--edges", "2.5"])
    weights = configure(options).objective.weights
    assert (weights.edges, weights.normals, weights.joints) == (2.5, 0.0, 1000.0)


def test_epochs_become_steps_of_all_devices() -> None:
    """The paper: 30 images on each of 8 GPUs, 200 epochs."""
    options = parser().parse_args(["--out", "x", "--data", "shards:x", "--devices", "8"])
    assert run_length(options, paper_body(), 305_476) == Length(steps=200 * 1273, epochs=200)
    options.nodes = 2
    assert run_length(options, replace(paper_body(), accumulate=2), 305_476) == Length(steps=200 * 319, epochs=200)
    options.minutes = 5.0
    assert run_length(options, paper_body(), 305_476) == Length(minutes=5.0)
    with pytest.raises(ConfigError, match="--steps, --epochs or --minutes"):
        run_length(parser().parse_args(["--out", "x", "--data", "shards:x"]), default(), 100)
