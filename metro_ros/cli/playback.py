"""What a recorded clip shows: people by frame, pictures, and how far they are from the truth."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from metro_ros.cli.bags import read_bag
from metro_ros.cli.run import open_video
from metro_ros.core.bundle import Bundle
from metro_ros.core.clip import Clip
from metro_ros.core.crop import Box
from metro_ros.core.draw import contact_sheet, draw_people
from metro_ros.core.errors import SourceError
from metro_ros.core.estimator import Person, TranslationSource
from metro_ros.core.evaluation import ClipEvaluation, ClipResult, summarize

SHEET_PICTURES, SHEET_COLUMNS = 20, 5
TRANSLATION_SOURCES: tuple[TranslationSource, ...] = ("camera", "depth", "nominal")
"""By the TRANSLATION_ constants of metro_msgs/Person."""

Image = npt.NDArray[np.uint8]


class Answer(NamedTuple):
    """The people of one image, and the milliseconds from its stamp to their receipt."""

    people: list[Person]
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Playback:
    """What came out of a recording. played_s: number of images times the median time between them."""

    frames_in: int
    frames_out: int
    played_s: float
    latency_ms_p50: float
    latency_ms_p99: float
    result: ClipResult


def review(bag: Path, topics: tuple[str, str], clip: Clip, bundle: Bundle, overlay: Path, sheet: Path) -> Playback:
    """Draw `overlay` (MP4) and `sheet` (PNG) from a bag and compare it with the clip that was played.

    topics: of the images and of the people. An image is matched with its people by its stamp, with the clip's frame by
    its pixels, which also shows that they arrived as they were. Raises SourceError when the bag holds no image or no
    people, or an image that is none of the clip's.
    """
    image_topic, people_topic = topics
    answers = {
        _stamp_ns(recorded.message): Answer(
            [person_from_message(person) for person in recorded.message.persons],
            (recorded.received_ns - _stamp_ns(recorded.message)) * 1e-6,
        )
        for recorded in read_bag(bag, (people_topic,))
    }
    if not answers:
        raise SourceError(f"the bag {bag} holds no people", expected="messages of the node", got="none")
    evaluation, measured = ClipEvaluation(clip, bundle), 0
    pictures: list[Image] = []
    stamps_ns: list[int] = []
    shown = {round(index) for index in np.linspace(0, len(clip) - 1, SHEET_PICTURES)}
    video = open_video(overlay, clip.fps, (clip.camera.width, clip.camera.height))
    try:
        matched = _match(bag, image_topic, clip)
        for frame, stamp_ns, image in tqdm(matched, total=len(clip), desc="drawing and measuring", unit=" frames"):
            answer = answers.get(stamp_ns)
            people = answer.people if answer else []
            for _ in range(measured, frame):  # images that never arrived
                evaluation.add(None)
            evaluation.add(people)
            measured = frame + 1
            picture = _picture(image, people, frame, answer is not None, clip, bundle)
            video.write(picture)
            stamps_ns.append(stamp_ns)
            if frame in shown:
                pictures.append(picture)
    finally:
        video.release()
    if not stamps_ns:
        raise SourceError(f"the bag {bag} holds no images", expected=f"{len(clip)} on {image_topic}", got="none")
    if not cv2.imwrite(str(sheet), contact_sheet(pictures or [picture], SHEET_COLUMNS)):
        raise SourceError(f"cannot write {sheet}", expected="a folder with room")
    latencies_ms = [answers[stamp_ns].latency_ms for stamp_ns in stamps_ns if stamp_ns in answers]
    if not latencies_ms:
        raise SourceError(f"the people in {bag} belong to none of its images", expected="equal stamps", got="none")
    p50, p99 = np.percentile(latencies_ms, (50, 99))
    # The median: the camera waits after its first image until everyone has it.
    period_s = float(np.median(np.diff(stamps_ns))) * 1e-9 if len(stamps_ns) > 1 else 1 / clip.fps
    return Playback(
        frames_in=len(stamps_ns),
        frames_out=len(latencies_ms),
        played_s=period_s * len(stamps_ns),
        latency_ms_p50=float(p50),
        latency_ms_p99=float(p99),
        result=summarize([evaluation.score()]),
    )


def person_from_message(message: Any) -> Person:
    """A metro_msgs/Person as it was in the node, but for the box's centre, which is rounded to single precision."""
    joints = np.asarray(message.joints, np.float32).reshape(-1, 3)
    confidence = np.asarray(message.joint_confidence, np.float32)
    translation = message.translation
    return Person(
        id=int(message.id),
        score=float(message.score),
        box=Box(
            float(message.box_x + message.box_width / 2),
            float(message.box_y + message.box_height / 2),
            float(message.box_width),
        ),
        joints=joints,
        vertices=np.asarray(message.vertices, np.float32).reshape(-1, 3),
        translation=np.array((translation.x, translation.y, translation.z), np.float32),
        translation_source=TRANSLATION_SOURCES[message.translation_source],
        joint_confidence=confidence if len(confidence) else None,
    )


def _match(bag: Path, topic: str, clip: Clip) -> Iterator[tuple[int, int, Image]]:
    """(frame, stamp in nanoseconds, pixels) of every image in the bag. Raises SourceError for a stranger."""
    frames = enumerate(clip.frames())
    for recorded in read_bag(bag, (topic,)):
        message = recorded.message
        image = np.asarray(message.data, np.uint8).reshape(message.height, message.width, 3)
        for frame, pixels in frames:
            if np.array_equal(pixels, image):
                yield frame, _stamp_ns(message), image
                break
        else:
            raise SourceError(f"an image in {bag} is no frame of {clip.path}", expected="the clip that was played")


def _picture(image: Image, people: list[Person], frame: int, answered: bool, clip: Clip, bundle: Bundle) -> Image:
    """The image with its people, and what there is to say about it in the corner."""
    level = len(bundle.levels) // 2
    picture = draw_people(image, people, clip.camera, bundle.faces[level], bundle.skeleton, bundle.rows[level])
    text = f"frame {frame}: "
    if people:
        text += ", ".join(f"person {person.id} at {person.translation[2]:.2f} m" for person in people)
    else:
        text += "nobody found" if answered else "dropped"
    for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(picture, text, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, thickness, cv2.LINE_AA)
    return picture


def _stamp_ns(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
