import pytest

from metro_ros.core import errors
from metro_ros.core.errors import MetroError


def test_an_error_is_one_line_that_says_what_to_do() -> None:
    error = MetroError("bad crop", expected="uint8\n(3,)", got="float32", remedy="convert it")
    assert str(error) == "bad crop: expected uint8 (3,), got float32. Convert it"


def test_what_is_not_known_is_not_said() -> None:
    assert str(MetroError("bad crop")) == "bad crop"
    assert str(MetroError("bad crop", got=0)) == "bad crop: got 0"


@pytest.mark.parametrize(
    "name", ["BundleError", "ImageError", "CameraError", "EngineError", "ConfigError", "SourceError"]
)
def test_one_family(name: str) -> None:
    assert issubclass(getattr(errors, name), MetroError)
