"""Images of datasets: right colours, and nothing damaged, huge or missing does more harm than one row."""

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_fixtures import RED, encode_jpeg, make_image

from training.datasets import decode, images
from training.datasets.images import decode_base64_image, read_image
from training.datasets.labels import make_box, project, take_numbers
from training.datasets.sample import SampleError


def refusal(error: pytest.ExceptionInfo[SampleError]) -> str:
    text = str(error.value)
    assert text.startswith("row 7") and "\n" not in text
    return text


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_files_and_base64_are_rgb(tmp_path: Path, suffix: str) -> None:
    encoded = cv2.imencode(suffix, make_image()[..., ::-1])[1].tobytes()
    (tmp_path / "a").write_bytes(encoded)
    for image in (read_image(tmp_path / "a", "row 7"), decode_base64_image(base64.b64encode(encoded), "row 7")):
        assert image.dtype == np.uint8 and image.shape == (48, 64, 3)
        np.testing.assert_allclose(image[5, 5], RED, atol=3)
        np.testing.assert_allclose(image[-5, -5], 60, atol=3)


def test_missing_damaged_and_huge_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    with pytest.raises(SampleError) as error:
        read_image(path, "row 7")
    assert "a.jpg" in refusal(error)
    path.write_bytes(encode_jpeg(make_image())[:40])
    with pytest.raises(SampleError) as error:
        read_image(path, "row 7")
    assert "a.jpg" in refusal(error)
    path.write_bytes(encode_jpeg(make_image()))
    monkeypatch.setattr(decode, "MAX_PIXELS", 1000)
    with pytest.raises(SampleError, match=r"row 7: a.jpg: image size: expected 1..1000 pixels, got 64x48"):
        read_image(path, "row 7")
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 100)
    with pytest.raises(SampleError, match=r"row 7.*too large"):
        read_image(path, "row 7")
    with pytest.raises(SampleError, match=r"row 7.*at most 100"):
        decode_base64_image(base64.b64encode(path.read_bytes()), "row 7")


def test_text_with_other_signs_in_it_is_damaged() -> None:
    text = base64.b64encode(encode_jpeg(make_image()))
    for damaged in (text[:300] + b"!" + text[300:], b" " + text, text[:-8]):
        with pytest.raises(SampleError) as error:
            decode_base64_image(damaged, "row 7")
        refusal(error)


@pytest.mark.parametrize("text", [b"", b"&&&&", b"AAA", "é".encode(), base64.b64encode(b"GIF89a, say")])
def test_text_that_is_no_image(text: bytes) -> None:
    with pytest.raises(SampleError) as error:
        decode_base64_image(text, "row 7")
    refusal(error)


def test_numbers_of_the_right_shape() -> None:
    numbers = take_numbers([[[1, 2.5], [3, 4]]], (2, 2), "row 7")
    assert numbers.dtype == np.float32 and numbers.tolist() == [[1, 2.5], [3, 4]]
    assert take_numbers(True, (), "row 7") == 1.0


@pytest.mark.parametrize(
    "value",
    [None, "ab", ["1", "2"], [1, [2]], [1], [[1, 2], [3, 4]], [1, float("nan")], [1, float("inf")], [1, 1e10],
     [1, 10**400], {"a": 1}],
)  # fmt: skip
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(SampleError) as error:
        take_numbers(value, (2,), "row 7")
    refusal(error)


def test_boxes_without_a_side_are_refused() -> None:
    with pytest.raises(SampleError) as error:
        make_box(1, 2, 0, "row 7")
    refusal(error)


def test_projection_is_by_the_camera_and_forward_only() -> None:
    matrix = np.array([[100.0, 0, 50], [0, 200, 60], [0, 0, 1]])
    pixels, seen = project(np.array([[0.1, 0.2, 2.0], [0, 0, -1.0], [0, 0, 0]]), matrix)
    assert pixels.dtype == np.float32 and seen.tolist() == [True, False, False]
    np.testing.assert_allclose(pixels, [[55, 80], [0, 0], [0, 0]])
