"""The parts that measure, run short: contenders, stages, the node with its camera, and the command itself."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import contenders
from benchmarks.__main__ import main
from benchmarks.contenders import EAGER, EXACT, Network, names_of, opened
from benchmarks.crops import measured_crops, variant_crops
from benchmarks.paper import stand_in_body
from metro_ros.core.bundle import default_bundle_path, load_bundle
from training.bench_train import default_mesh
from training.build import build, default

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def network() -> Network:
    metro = build(default(), default_mesh()).eval()
    return Network("default", metro, load_bundle(default_bundle_path()), same_weights=False)


def test_contenders_answer_alike_or_say_why_not(network: Network) -> None:
    crops = measured_crops(network.bundle.manifest.crop.size, 2)
    names = names_of(network.bundle)
    assert names[0] == EAGER and {"openvino fp32", EXACT} <= set(names)
    answers, problems = {}, {}
    for name in names:
        with opened(network, name) as contender:
            if contender.infer is None:
                problems[name] = contender.problem
            else:
                answers[name] = contender.infer(crops).vertices
    assert all(vertices.shape == (2, network.bundle.levels[-1], 3) for vertices in answers.values())
    np.testing.assert_allclose(answers["openvino fp32"], answers[EXACT], atol=1e-4)
    assert all(problems.values()) and not set(problems) & set(answers)


def test_eager_is_the_network_itself(network: Network) -> None:
    import torch

    from training.normalize import Normalize

    crops = measured_crops(network.bundle.manifest.crop.size, 1)
    with opened(network, EAGER) as eager, torch.inference_mode():
        assert eager.infer is not None
        expected = network.metro(Normalize()(torch.from_numpy(crops))).vertices[-1].numpy()
        np.testing.assert_array_equal(eager.infer(crops).vertices, expected)


def test_a_refused_variant_keeps_its_reason(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "refused", lambda bundle: {"int8": "too far off"})
    with opened(network, "openvino int8") as contender:
        assert contender.infer is None and contender.problem == "too far off"


def test_errors_are_measured_on_crops_that_no_variant_was_calibrated_with() -> None:
    measured = {crop.tobytes() for crop in measured_crops(32, 8)}
    assert len(measured) == 8
    for count in (12, 60):
        calibrated = {crop.tobytes() for crop in variant_crops(32, count)[::2]}
        assert len(calibrated) == count // 2 and not calibrated & measured


def test_the_paper_s_body_stands_on_the_default_s() -> None:
    body = stand_in_body()
    assert body.level_sizes == (431, 1723, 6890) and body.joint_count == 14
    coarse = body.template_tokens[14:]
    finer = body.upsampling[1] @ body.upsampling[0] @ coarse
    assert finer.shape == (6890, 3)
    assert 1.2 < np.ptp(finer[:, 1]) < 2.2, "a person's height in metres"


def test_the_node_is_measured_end_to_end(tmp_path: Path) -> None:
    code = (
        "import json, sys; from pathlib import Path; from benchmarks.node import bench_node; "
        "print(json.dumps(bench_node(320, 240, 10, 45, Path(sys.argv[1]))))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout.splitlines()[-1])
    assert 31 < run["frames_out"] <= run["frames_in"] == 45
    assert 0 < run["engine_ms"] < run["node_ms"] and 0 < run["share_outside_engine"] < 1
    assert 0 < run["latency_ms_p50"] <= run["latency_ms_p99"]
    assert run["people_per_s"] > 0 and run["rss_mb"] > 50


def test_one_section_writes_its_figures_and_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--only", "stages", "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "bench.json").read_text())
    assert set(report["stages"]) == {"640x480", "1920x1080"} and report["quick"] is True
    assert all(ms > 0 for steps in report["stages"].values() for ms in steps.values())
    assert (tmp_path / "bench.png").is_file()
    assert "slowest step outside of the engine" in capsys.readouterr().out


def test_an_unknown_section_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--only", "everything"])
    assert end.value.code == 2 and "invalid choice" in capsys.readouterr().err
