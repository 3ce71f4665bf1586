"""A labelled clip, and the command line in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_clip import HEIGHT, WIDTH, write_tiny_clip

from metro_ros.cli import main


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See tiny_clip.py."""
    folder = tmp_path_factory.mktemp("clips") / "blob"
    write_tiny_clip(folder)
    return folder


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with 2 and one line on stderr; returns that line."""

    def check(*words: object) -> str:
        assert main([str(word) for word in words]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("metro-ros: "), lines
        return lines[0]

    return check


CALIBRATION = """
image_width: {width}
image_height: {height}
camera_matrix: {{rows: 3, cols: 3, data: [200.0, 0.0, 80.0, 0.0, 200.0, 60.0, 0.0, 0.0, 1.0]}}
distortion_model: plumb_bob
distortion_coefficients: {{rows: 1, cols: 5, data: [0.01, 0.0, 0.0, 0.0, 0.0]}}
"""


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    """A calibration file as camera_calibration writes it, for WIDTH x HEIGHT."""
    path = tmp_path / "camera.yaml"
    path.write_text(CALIBRATION.format(width=WIDTH, height=HEIGHT))
    return path
