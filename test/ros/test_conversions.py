"""Messages to images and cameras and back."""

import array

import cv2
import numpy as np
import pytest
from conftest import MATRIX, camera_info, image_message
from metro_msgs.msg import Person as PersonMessage
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from metro_ros.core.crop import Box
from metro_ros.core.errors import CameraError, ImageError
from metro_ros.core.estimator import Person
from metro_ros.ros.conversions import (
    ENCODINGS,
    camera_from_message,
    image_from_message,
    people_to_message,
    person_to_message,
    topology_to_message,
)

PIXELS = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8), (0, 0), 2)
GREY = np.repeat(cv2.cvtColor(PIXELS, cv2.COLOR_BGR2GRAY)[..., None], 3, axis=2)
FLAT = np.full((12, 16, 3), (200, 120, 40), np.uint8)


def yuv(image: np.ndarray, y_first: bool) -> np.ndarray:
    """(H, W, 2), by the formula of BT.601: two pixels share u and v."""
    blue, green, red = np.moveaxis(image.astype(float), -1, 0)
    y = 16 + 0.257 * red + 0.504 * green + 0.098 * blue
    u = 128 - 0.148 * red - 0.291 * green + 0.439 * blue
    v = 128 + 0.439 * red - 0.368 * green - 0.071 * blue
    chroma = np.where(np.arange(image.shape[1]) % 2, v, u)
    return np.rint(np.stack((y, chroma) if y_first else (chroma, y), axis=-1)).astype(np.uint8)


def bayer(image: np.ndarray, pattern: str) -> np.ndarray:
    """(H, W): of each pixel the one colour that the sensor's filter lets through; pattern: the upper left 2x2."""
    raw = np.empty(image.shape[:2], np.uint8)
    for index, letter in enumerate(pattern):
        raw[index // 2 :: 2, index % 2 :: 2] = image[index // 2 :: 2, index % 2 :: 2, "bgr".index(letter)]
    return raw


CASES = {
    "bgr8": (PIXELS, PIXELS, 0),
    "8UC3": (PIXELS, PIXELS, 0),
    "rgb8": (PIXELS[..., ::-1], PIXELS, 0),
    "bgra8": (np.dstack((PIXELS, PIXELS[..., 0])), PIXELS, 0),
    "rgba8": (np.dstack((PIXELS[..., ::-1], PIXELS[..., 0])), PIXELS, 0),
    "mono8": (GREY[..., 0], GREY, 0),
    "8UC1": (GREY[..., 0], GREY, 0),
    **{name: (yuv(FLAT, y_first=False), FLAT, 3) for name in ("yuv422", "uyvy")},
    **{name: (yuv(FLAT, y_first=True), FLAT, 3) for name in ("yuv422_yuy2", "yuyv")},
    **{f"bayer_{pattern}8": (bayer(FLAT, pattern), FLAT, 1) for pattern in ("rggb", "bggr", "gbrg", "grbg")},
}


def test_every_encoding_has_a_case():
    assert set(CASES) == set(ENCODINGS)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", CASES)
def test_every_encoding_comes_out_as_bgr(encoding, padding):
    stored, expected, tolerance = CASES[encoding]
    rows = np.ascontiguousarray(stored).reshape(len(stored), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    message = Image(height=12, width=16, encoding=encoding, step=rows.shape[1], header=Header(frame_id="lens"))
    message.data = rows.tobytes()
    image = image_from_message(deserialize_message(serialize_message(message), Image))
    assert image.dtype == np.uint8 and image.shape == (12, 16, 3)
    assert np.abs(image.astype(int) - expected).max() <= tolerance


def test_the_pixels_of_a_bgr8_image_are_not_copied():
    message = deserialize_message(serialize_message(image_message(PIXELS)), Image)
    image = image_from_message(message)
    message.data[0] ^= 255
    assert image[0, 0, 0] == message.data[0]


@pytest.mark.parametrize("encoding", ["mono16", "bgr16", "16UC1", "32FC1", "nv21", "", "BGR8"])
def test_other_encodings_are_refused_by_name(encoding):
    message = image_message(PIXELS, encoding=encoding)
    with pytest.raises(ImageError, match="encoding") as refusal:
        image_from_message(message)
    assert repr(encoding) in str(refusal.value)


def test_an_odd_width_of_yuv422_is_refused():
    with pytest.raises(ImageError, match="yuv422"):
        image_from_message(image_message(np.zeros((4, 5, 2), np.uint8), encoding="yuv422"))


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp"])
def test_compressed_images(extension):
    data = cv2.imencode(extension, PIXELS)[1].tobytes()
    message = CompressedImage(header=Header(frame_id="lens"), format=extension[1:], data=data)
    image = image_from_message(message)
    assert np.abs(image.astype(int) - PIXELS).mean() < 12
    message.data = data + b"\0" * 100  # some drivers send their whole buffer
    assert np.array_equal(image_from_message(message), image)


@pytest.mark.parametrize("part", [0.0, 0.01, 0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_truncated_images_are_refused(part, extension):
    large = cv2.resize(PIXELS, (320, 240), interpolation=cv2.INTER_NEAREST)
    data = cv2.imencode(extension, large)[1].tobytes()
    message = CompressedImage(header=Header(frame_id="lens"), data=data[: int(part * len(data))])
    with pytest.raises(ImageError, match=r"truncated|empty"):
        image_from_message(message)


def test_camera_info_becomes_a_camera():
    info = camera_info()
    info.d = [0.1, -0.2, 0.001, 0.002, 0.05]
    camera = camera_from_message(info, rectified=False)
    assert (camera.width, camera.height, camera.model, camera.nominal) == (160, 120, "plumb_bob", False)
    assert np.array_equal(camera.matrix, MATRIX) and np.array_equal(camera.distortion, info.d)


def test_a_binned_region_sees_the_same_rays():
    points = np.array([(0.1, -0.05, 2.0), (-0.2, 0.1, 1.5)])
    full = camera_from_message(camera_info(), rectified=False)
    info = camera_info()
    info.roi = RegionOfInterest(x_offset=20, y_offset=10, width=100, height=80)
    info.binning_x = info.binning_y = 2
    part = camera_from_message(info, rectified=False)
    assert (part.width, part.height) == (50, 40)
    # Binned pixel p is the mean of the full ones 2p and 2p + 1, so its centre lies at 2p + 0.5.
    assert np.allclose(part.project(points) * 2 + 0.5 + (20, 10), full.project(points))


def test_a_rectified_camera_has_no_distortion_and_the_projection_matrix():
    info = camera_info(matrix=MATRIX * 2)
    info.d = [0.5, 0.0, 0.0, 0.0, 0.0]
    info.p = np.hstack((MATRIX, [[-9.0], [0.0], [0.0]])).ravel()
    camera = camera_from_message(info, rectified=True)
    assert np.array_equal(camera.matrix, MATRIX) and not camera.distortion.size


def test_an_uncalibrated_driver_gives_no_camera():
    assert camera_from_message(camera_info(matrix=np.zeros((3, 3))), rectified=False) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("distortion_model", "fov"), ("d", [0.1, 0.2]), ("k", np.full(9, np.nan)), ("k", -MATRIX.ravel()), ("width", 0)],
)
def test_an_impossible_calibration_is_refused(field, value):
    info = camera_info()
    info.d = [0.1, 0.0, 0.0, 0.0, 0.0]
    setattr(info, field, value)
    with pytest.raises(CameraError):
        camera_from_message(info, rectified=False)


def someone(confidence: bool = True, source: str = "camera") -> Person:
    random = np.random.default_rng(1)
    joints, vertices = (random.normal(size=(count, 3)).astype(np.float32) for count in (17, 258))
    scores = random.random(17).astype(np.float32) if confidence else None
    box = Box(100.0, 80.0, 50.0)
    return Person(4, 0.75, box, joints, vertices, np.float32((0.5, 0.25, 3.0)), source, scores)  # type: ignore[arg-type]


def test_a_person_survives_the_wire():
    person, header = someone(), Header(frame_id="lens")
    array_message = people_to_message([person, someone()], header, "tiny")
    back = deserialize_message(serialize_message(array_message), type(array_message))
    assert (back.header, back.model, len(back.persons)) == (header, "tiny", 2)
    found = back.persons[0]
    assert np.array_equal(np.reshape(found.joints, (-1, 3)), person.joints)
    assert np.array_equal(np.reshape(found.vertices, (-1, 3)), person.vertices)
    assert np.array_equal(found.joint_confidence, person.joint_confidence)
    assert (found.id, found.score) == (4, 0.75)
    assert (found.box_x, found.box_y, found.box_width, found.box_height) == (75.0, 55.0, 50.0, 50.0)
    assert (found.translation.x, found.translation.y, found.translation.z) == (0.5, 0.25, 3.0)


def test_long_fields_are_arrays_and_an_absent_confidence_is_empty():
    message = person_to_message(someone(confidence=False))
    assert isinstance(message.vertices, array.array) and isinstance(message.joints, array.array)
    assert len(message.joint_confidence) == 0


@pytest.mark.parametrize(
    ("source", "constant"),
    [
        ("camera", PersonMessage.TRANSLATION_CAMERA),
        ("depth", PersonMessage.TRANSLATION_DEPTH),
        ("nominal", PersonMessage.TRANSLATION_NOMINAL),
    ],
)
def test_the_translation_source_is_told(source, constant):
    assert person_to_message(someone(source=source)).translation_source == constant


def test_topology_is_made_of_arrays(tiny_bundle):
    message = topology_to_message(tiny_bundle)
    assert isinstance(message.level_faces, array.array) and isinstance(message.level_rows, array.array)
    assert len(message.level_faces) == 3 * sum(message.level_face_counts)
