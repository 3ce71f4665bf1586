"""Ninety-six looks at a hand in one: turned and scaled crops give the plain answer where the network turns along."""

import numpy as np
import pytest
from stand_ins import CompassNetwork, compass_image, make_sample

from metro_ros.core.crop import Box
from metro_ros.core.engines import Output
from training.datasets.sample import Sample
from training.predict import PlainPrediction, SampleCrop
from training.tta import DEGREES, SCALES, AveragedPrediction

SIZE = 64
CROP = SampleCrop(SIZE, "smooth")
MESH = np.random.RandomState(0).standard_normal((30, 3)).astype(np.float32)


def sample() -> Sample:
    return make_sample(joint_count=21, image=compass_image(), box=Box(60.0, 60.0, 60.0))


def test_the_looks_are_those_of_the_paper() -> None:
    assert SCALES == (0.7, 0.8, 0.9, 1.0, 1.1)
    assert sorted(DEGREES) == list(range(-90, 91, 10)) and len(DEGREES) == 19


def test_a_network_that_turns_along_answers_as_without() -> None:
    network = CompassNetwork(MESH)
    plain = PlainPrediction(network, CROP)([sample()])
    averaged = AveragedPrediction(network, CROP)([sample()])
    np.testing.assert_allclose(averaged, plain, atol=1e-6)
    assert averaged.dtype == np.float32 and averaged.shape == (1, 30, 3)


def test_every_scale_and_turn_is_seen_and_batches_are_small() -> None:
    network = CompassNetwork(MESH)
    AveragedPrediction(network, CROP, batch=16)([sample()])
    assert len(network.angles_deg) == 95 and max(network.batches) == 16
    looks = [(1.0, 0), *((s, d) for s in SCALES for d in DEGREES if (s, d) != (1.0, 0))]
    np.testing.assert_allclose(network.angles_deg, [degrees for _, degrees in looks], atol=0.5)
    np.testing.assert_allclose(network.spreads, [12 / 60 * SIZE / scale for scale, _ in looks], rtol=0.03)


class CountingNetwork:
    """The n-th crop gets the template with vertex 0 moved by shifts[n]."""

    def __init__(self, shifts: np.ndarray) -> None:
        self.shifts, self.seen = shifts, 0

    def infer(self, crops: np.ndarray) -> Output:
        meshes = np.repeat(MESH[None], len(crops), axis=0)
        meshes[:, 0, 0] += self.shifts[self.seen : self.seen + len(crops)]
        self.seen += len(crops)
        return Output(np.zeros((len(crops), 21, 3), np.float32), meshes, np.ones((len(crops), 3), np.float32), None)


@pytest.mark.parametrize("look", [1, 40, 94])
def test_each_look_has_its_96th_and_the_plain_one_two(look: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.tta.procrustes_align", lambda prediction, truth: prediction.astype(np.float64))
    shifts = np.zeros(95, np.float32)
    shifts[look] = 0.96
    mean = AveragedPrediction(CountingNetwork(shifts), CROP)([sample()])[0]
    assert mean[0, 0] - MESH[0, 0] == pytest.approx(0.01, abs=1e-6)
    shifts = np.zeros(95, np.float32)
    shifts[0] = 0.96
    mean = AveragedPrediction(CountingNetwork(shifts), CROP)([sample()])[0]
    assert mean[0, 0] - MESH[0, 0] == pytest.approx(0.02, abs=1e-6)


def test_samples_do_not_mix() -> None:
    network = CompassNetwork(MESH)
    other = make_sample(joint_count=21, image=np.rot90(compass_image()).copy(), box=Box(60.0, 60.0, 70.0))
    averaged = AveragedPrediction(network, CROP)([sample(), other])
    np.testing.assert_allclose(averaged[1], PlainPrediction(network, CROP)([other])[0], atol=1e-6)
    assert np.abs(averaged[0] - averaged[1]).max() > 0.05
