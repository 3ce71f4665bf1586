"""`python -m benchmarks.camera WIDTH HEIGHT RATE FRAMES HEARD`: a camera that costs next to nothing.

It plays images of the demo clip to and fro, scaled, serialised beforehand; only the stamp is written anew.
It begins once the file HEARD is there, which says that an answer to its first images has arrived.
"""

import sys
import time
from pathlib import Path

import cv2
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from benchmarks.crops import demo_clip, demo_frames
from metro_ros.cli.recorder import STAMP, STAMP_OFFSET

IMAGES = 30


def scaled_frames(width: int, height: int, count: int = IMAGES) -> list[np.ndarray]:
    """Images of the demo clip, uint8 (height, width, 3) BGR, there and back again, so that no one jumps."""
    images = [np.asarray(cv2.resize(image, (width, height)), np.uint8) for image in demo_frames(count)]
    return images + images[-2:0:-1]


def scaled_matrix(width: int, height: int) -> np.ndarray:
    """(3, 3) px, of the demo clip's camera at another size."""
    camera = demo_clip().camera
    return np.diag((width / camera.width, height / camera.height, 1.0)) @ camera.matrix


def image_message(image: np.ndarray) -> Image:
    """bgr8, without a stamp."""
    message = Image(header=Header(frame_id="camera"), height=image.shape[0], width=image.shape[1], encoding="bgr8")
    message.step = 3 * message.width
    message.data = image.tobytes()
    return message


def stamped(message: bytearray) -> bytes:
    """A serialised message with a header, stamped now."""
    STAMP.pack_into(message, STAMP_OFFSET, *divmod(time.time_ns(), 10**9))
    return bytes(message)


def main() -> int:
    """Publish images until somebody has heard an answer, print the time, then publish so many at a steady rate."""
    width, height, rate, frames = (int(argument) for argument in sys.argv[1:5])
    heard = Path(sys.argv[5])
    messages = [bytearray(serialize_message(image_message(image))) for image in scaled_frames(width, height)]
    info = CameraInfo(header=Header(frame_id="camera"), width=width, height=height, distortion_model="plumb_bob")
    info.k, info.d = scaled_matrix(width, height).ravel().tolist(), [0.0] * 5
    rclpy.init()
    node = rclpy.create_node("metro_bench_camera")
    qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
    images, infos = node.create_publisher(Image, "image", qos), node.create_publisher(CameraInfo, "camera_info", qos)
    try:
        while not heard.exists():  # nobody hears another at once
            rclpy.spin_once(node, timeout_sec=0.1)
            if images.get_subscription_count() and infos.get_subscription_count():
                infos.publish(info)
                images.publish(stamped(messages[0]))
        time.sleep(0.5)
        print(time.time_ns(), flush=True)
        due = time.monotonic()
        for index in range(frames):
            time.sleep(max(0.0, due - time.monotonic()))
            images.publish(stamped(messages[index % len(messages)]))
            due += 1 / rate
        time.sleep(1.0)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
