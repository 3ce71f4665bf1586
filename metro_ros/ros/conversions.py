"""Messages to images and cameras, people to messages: pure functions, nothing else touches both sides.

Whatever is wrong with a message is an ImageError or a CameraError, so that the node can drop it and live on.
"""

import array
import functools
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple, cast

import cv2
import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import Vector3
from metro_msgs.msg import MeshTopology, PersonArray
from metro_msgs.msg import Person as PersonMessage
from rosbags.image import ImageError as RosbagsImageError
from rosbags.image import image_to_cvimage
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from metro_ros.core.bundle import Bundle
from metro_ros.core.camera import Camera, DistortionModel
from metro_ros.core.errors import ImageError
from metro_ros.core.estimator import Person

log = logging.getLogger(__name__)

Bgr = npt.NDArray[np.uint8]


class Encoding(NamedTuple):
    """How 8-bit pixels lie in a message: bytes per pixel, and the name that converters know the encoding by."""

    bytes_per_pixel: int
    name: str


ENCODINGS: dict[str, Encoding] = {
    **{name: Encoding(1, name) for name in ("mono8", "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8")},
    **{name: Encoding(3, name) for name in ("bgr8", "rgb8")},
    **{name: Encoding(4, name) for name in ("bgra8", "rgba8")},
    "8UC1": Encoding(1, "mono8"),
    "8UC3": Encoding(3, "bgr8"),  # OpenCV's own order
    "yuv422": Encoding(2, "yuv422"),
    "uyvy": Encoding(2, "yuv422"),  # the name since Iron
    "yuv422_yuy2": Encoding(2, "yuv422_yuy2"),
    "yuyv": Encoding(2, "yuv422_yuy2"),
}

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
TRANSLATION_SOURCES = {
    "camera": PersonMessage.TRANSLATION_CAMERA,
    "depth": PersonMessage.TRANSLATION_DEPTH,
    "nominal": PersonMessage.TRANSLATION_NOMINAL,
}


def image_from_message(message: Image | CompressedImage) -> Bgr:
    """The pixels, uint8 (H, W, 3) BGR; may be a view of the message's bytes.

    Raises ImageError when the frame has no name, the size is zero or does not fit the data, the encoding is unknown or
    not 8 bits deep, or a compressed image is damaged.
    """
    if not message.header.frame_id:
        raise ImageError(
            "the image has no frame_id",
            expected="the name of the camera's optical frame",
            got="an empty string",
            remedy="set frame_id in the camera driver",
        )
    return _decode(message) if isinstance(message, CompressedImage) else _unpack(message)


def stamp_seconds(header: Header) -> float:
    """The header's stamp in seconds."""
    return header.stamp.sec + header.stamp.nanosec * 1e-9


def camera_from_message(info: CameraInfo, rectified: bool) -> Camera | None:
    """The camera of the published image, binning and region of interest included; None when it is not calibrated.

    rectified: the image has been undistorted, so that the projection matrix holds and no distortion is left. Raises
    CameraError when the numbers are impossible.
    """
    projection = np.array(info.p, np.float64).reshape(3, 4)[:, :3]
    matrix = projection if rectified else np.array(info.k, np.float64).reshape(3, 3)
    if not matrix.any():  # sensor_msgs/CameraInfo: all zero where a camera is uncalibrated
        return None
    width, height = info.width, info.height
    if info.roi.width and info.roi.height:
        width, height = info.roi.width, info.roi.height
        matrix = np.array(((1, 0, -info.roi.x_offset), (0, 1, -info.roi.y_offset), (0, 0, 1)), np.float64) @ matrix
    bin_x, bin_y = max(info.binning_x, 1), max(info.binning_y, 1)
    if (bin_x, bin_y) != (1, 1):  # the mean of a block of b pixels lies at (b - 1) / 2 of them
        shift_x, shift_y = (1 / bin_x - 1) / 2, (1 / bin_y - 1) / 2
        matrix = np.array(((1 / bin_x, 0, shift_x), (0, 1 / bin_y, shift_y), (0, 0, 1))) @ matrix
        width, height = width // bin_x, height // bin_y
    distortion = np.array([] if rectified else info.d, np.float64)
    model = cast(DistortionModel, info.distortion_model if distortion.size else "none")  # Camera checks it
    return Camera(width=width, height=height, matrix=matrix, distortion=distortion, model=model)


def people_to_message(people: list[Person], header: Header, model: str) -> PersonArray:
    """Everyone in one image as metro_msgs/PersonArray with the image's header."""
    return PersonArray(header=header, model=model, persons=[person_to_message(person) for person in people])


def person_to_message(person: Person) -> PersonMessage:
    """One person; arrays go over as one block of memory, never number by number.

    Serialised bytes would be published no faster: what is left, 0.3 ms for 12,272 vertices, is the middleware's.
    """
    x, y, z = map(float, person.translation)
    message = PersonMessage(
        id=person.id,
        score=float(person.score),
        box_x=person.box.cx - person.box.size / 2,
        box_y=person.box.cy - person.box.size / 2,
        box_width=person.box.size,
        box_height=person.box.size,
        translation=Vector3(x=x, y=y, z=z),
        translation_source=TRANSLATION_SOURCES[person.translation_source],
    )
    message.joints = _floats(person.joints)
    message.vertices = _floats(person.vertices)
    if person.joint_confidence is not None:
        message.joint_confidence = _floats(person.joint_confidence)
    return message


def topology_to_message(bundle: Bundle) -> MeshTopology:
    """Joint names, parents, and faces and rows of every level, coarsest first."""
    message = MeshTopology(
        model=bundle.manifest.name,
        joint_names=list(bundle.skeleton.names),
        joint_parents=list(bundle.skeleton.parents),
        level_vertex_counts=list(bundle.levels),
        level_face_counts=[len(faces) for faces in bundle.faces],
    )
    message.level_rows = _indices(np.concatenate(bundle.rows))
    message.level_faces = _indices(np.concatenate(bundle.faces))
    return message


def _floats(values: npt.NDArray[np.floating]) -> "array.array[float]":
    block = array.array("f")
    block.frombytes(_memory(np.ascontiguousarray(values, np.float32)))
    return block


def _indices(values: npt.NDArray[np.integer]) -> "array.array[int]":
    block = array.array("I")
    block.frombytes(_memory(np.ascontiguousarray(values, np.uint32)))
    return block


def _memory(values: npt.NDArray) -> memoryview:
    return values.ravel().view(np.uint8).data


def _unpack(message: Image) -> Bgr:
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        raise ImageError(
            "unsupported image encoding",
            expected="an 8-bit colour or grey one: " + ", ".join(ENCODINGS),
            got=repr(message.encoding),
        )
    height, width, step = message.height, message.width, message.step
    if not height or not width:
        raise ImageError("the image is empty", expected="at least one pixel", got=f"{width}x{height}")
    row_bytes = width * encoding.bytes_per_pixel
    if step < row_bytes:
        raise ImageError(f"step of a {message.encoding} image", expected=f"at least {row_bytes} bytes", got=step)
    if len(message.data) != step * height:
        raise ImageError(
            "size of the image data", expected=f"step x height = {step * height} bytes", got=len(message.data)
        )
    try:
        return np.asarray(_converter()(message, encoding), np.uint8)
    except (cv2.error, RosbagsImageError, ValueError, RuntimeError) as error:
        raise ImageError(f"cannot convert {width}x{height} {message.encoding} to bgr8", got=error) from error


def _decode(message: CompressedImage) -> Bgr:
    data = np.frombuffer(message.data, np.uint8)
    if not data.size:
        raise ImageError("the compressed image is empty", expected="JPEG or PNG data", got="0 bytes")
    # Some versions of OpenCV fill the missing rows of a JPEG with grey, so look for its end marker first. Some drivers
    # send their whole buffer, zeros and all.
    whole = data[:2].tobytes() != JPEG_START or data.tobytes().rstrip(b"\0").endswith(JPEG_END)
    try:
        # Orientation tags are ignored: the calibration belongs to the sensor's rows and columns.
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if whole else None
    except cv2.error:
        image = None
    if image is None:
        raise ImageError(
            "the compressed image is truncated or damaged",
            expected="a whole JPEG or PNG",
            got=f"{data.size} bytes, format {message.format!r}",
        )
    return np.asarray(image, np.uint8)


@functools.cache
def _converter() -> Callable[[Image, Encoding], Bgr]:
    """cv_bridge where it works, else rosbags-image: an image whose size has been checked → uint8 (H, W, 3) BGR."""
    try:
        from cv_bridge import CvBridge

        bridge = CvBridge()

        def by_cv_bridge(message: Image, encoding: Encoding) -> Bgr:
            known = Image(width=message.width, height=message.height, step=message.step, encoding=encoding.name)
            known.data = message.data
            return np.asarray(bridge.imgmsg_to_cv2(known, "bgr8"), np.uint8)

        trial = Image(width=1, height=1, step=3)
        trial.data = array.array("B", (0, 0, 0))
        by_cv_bridge(trial, ENCODINGS["rgb8"])
        return by_cv_bridge
    except ImportError as error:
        log.info("no cv_bridge (%s): images are converted by rosbags-image", error)
    except Exception as error:  # builds against NumPy 1 fail in many ways under NumPy 2
        log.warning("cv_bridge is installed but fails (%s): images are converted by rosbags-image", error)
    return _by_rosbags


def _by_rosbags(message: Image, encoding: Encoding) -> Bgr:
    pixels = np.frombuffer(message.data, np.uint8)
    row_bytes = message.width * encoding.bytes_per_pixel
    if message.step != row_bytes:  # rows padded for alignment, which rosbags-image does not know
        pixels = np.ascontiguousarray(pixels.reshape(message.height, message.step)[:, :row_bytes])
    packed = SimpleNamespace(
        width=message.width, height=message.height, encoding=encoding.name, is_bigendian=False, data=pixels
    )
    return np.asarray(image_to_cvimage(packed, "bgr8"), np.uint8)
