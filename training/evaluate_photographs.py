"""How a bundle finds and poses people in photographs that are labelled as COCO's are: by keypoints in the image.

python -m training.evaluate_photographs --bundle DIR --data ANNOTATIONS.json IMAGES [--data ...] --json OUT

Each image is one that no other follows, as for `metro-ros run`. What counts is where shoulders, elbows, wrists, hips,
knees and ankles are in the image: no photograph tells depths. An annotation's category names its keypoints; COCO,
OCHuman, CrowdPose, AI Challenger, MHP and PoseTrack spell them alike enough.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from metro_ros.cli.finding import ALONE
from metro_ros.core.assignment import assign
from metro_ros.core.bundle import Bundle, default_bundle_path, load_bundle
from metro_ros.core.camera import Camera
from metro_ros.core.detect import Detector
from metro_ros.core.detectors import open_detector
from metro_ros.core.engines import Engine, open_engine
from metro_ros.core.errors import ConfigError, MetroError, SourceError
from metro_ros.core.estimator import Estimator
from training.datasets.coco import file_names, read_coco
from training.datasets.images import read_image
from training.datasets.labels import take_numbers
from training.evaluate import write_report

SIGMAS = {"Shoulder": 0.079, "Elbow": 0.072, "Wrist": 0.062, "Hip": 0.107, "Knee": 0.087, "Ankle": 0.089}
"""How far people who label COCO are apart, in square roots of a person's area (its keypoint evaluation)."""
JOINTS = tuple(f"{side}_{name}" for name in SIGMAS for side in "LR")
AREA = 0.53
"""Of a box, a person's area where the annotation has none."""
MIN_LABELLED = 4
"""Who shows fewer of the joints is not asked for: no miss when not found, no mistake when found."""
FOUND, POSED = 0.3, 0.5
"""Similarities from which on someone is found at all, and posed right."""


class Labelled(NamedTuple):
    """One person of a photograph. points: (12, 2) px, NaN where unknown; area: px²; box: (4,) left, top, right, bottom;
    asked: whether it has to be found."""

    points: npt.NDArray[np.float64]
    area: float
    box: npt.NDArray[np.float64]
    asked: bool


class Compared(NamedTuple):
    """One photograph: the similarity of each person who had to be found to whom it was compared with, 0 for nobody; how
    many were found who count, and how many of these are no one's."""

    similarities: list[float]
    found: int
    wrong: int


def similarity(points: npt.NDArray[np.floating], person: Labelled) -> float:
    """COCO's object keypoint similarity of joints (12, 2) px and a labelled person, 0..1, over the labelled joints.

    NaN in `points` is infinitely far off; 0 for a person without a labelled joint.
    """
    known = np.isfinite(person.points).all(axis=1)
    if not known.any():
        return 0.0
    sigmas = np.repeat(tuple(SIGMAS.values()), 2)[known]
    squares = np.square(points[known] - person.points[known]).sum(axis=1)
    closeness = np.exp(-squares / (2 * person.area * np.square(2 * sigmas)))
    return float(np.nan_to_num(closeness).mean())


def compare(found: Sequence[npt.NDArray[np.floating]], people: Sequence[Labelled]) -> Compared:
    """Of one photograph: joints (12, 2) px of everyone who was found, and everyone who is labelled, in pairs."""
    alike = np.array([[similarity(points, person) for points in found] for person in people])
    alike = alike.reshape(len(people), len(found))
    asked = np.array([person.asked for person in people], bool)
    best = np.zeros(len(people))
    for row, column in assign(1 - alike[asked], 1.0):
        best[np.flatnonzero(asked)[row]] = alike[asked][row, column]
    right = (alike >= FOUND).any(axis=0)
    ignored = np.array(
        [any(_inside(points, person) for person in people if not person.asked) for points in found], bool
    )
    counted = right | ~ignored
    return Compared(best[asked].tolist(), int(counted.sum()), int((counted & ~right).sum()))


def _inside(points: npt.NDArray[np.floating], person: Labelled) -> bool:
    within = (points >= person.box[:2]) & (points <= person.box[2:])
    return float(within.all(axis=1).mean()) >= 0.5


def summary(photographs: Sequence[Compared]) -> dict[str, Any]:
    """Figures of all of them. Raises SourceError when nobody had to be found."""
    alike = np.array([value for one in photographs for value in one.similarities])
    if not len(alike):
        raise SourceError("photographs", expected=f"people with {MIN_LABELLED} labelled joints", got="none")
    found, wrong = sum(one.found for one in photographs), sum(one.wrong for one in photographs)
    return {
        "photographs": len(photographs),
        "people": len(alike),
        "similarity": float(alike.mean()),
        "found": float((alike >= FOUND).mean()),
        "posed": float((alike >= POSED).mean()),
        "precision": 1 - wrong / found if found else float("nan"),
    }


def labelled_people(annotations: Path, images: Path) -> Iterator[tuple[Path, list[Labelled]]]:
    """Each photograph and everyone in it. Raises SourceError for a file that is none, or that lacks the keypoints."""
    content = read_coco(annotations)
    files, columns = file_names(content["images"]), _columns(content, annotations)
    people: dict[int, list[Labelled]] = {number: [] for number in files}
    for index, entry in enumerate(content["annotations"]):
        what = f"annotation {index} of {annotations}"
        number = entry.get("image_id") if isinstance(entry, Mapping) else None
        if number not in people:
            raise SourceError(what, expected="the image_id of one of the images", got=repr(number)[:100])
        people[number].append(_labelled(entry, columns, what))
    for number, everyone in people.items():
        if everyone:
            yield images / files[number], everyone


def _columns(content: Mapping[str, Any], annotations: Path) -> tuple[list[int], int]:
    """Where the twelve joints are among the keypoints of the category, and how many of those there are."""
    categories = content.get("categories")
    category = categories[0] if isinstance(categories, list) and categories else None
    keypoints = category.get("keypoints") if isinstance(category, Mapping) else None
    names = [_spelled(str(name)) for name in keypoints] if isinstance(keypoints, list) else []
    wanted = [_spelled(f"{'left' if joint[0] == 'L' else 'right'} {joint[2:]}") for joint in JOINTS]
    missing = sorted(set(wanted) - set(names))
    if missing:
        raise SourceError(f"keypoints of {annotations}", expected=", ".join(wanted), got=f"no {', '.join(missing)}")
    return [names.index(name) for name in wanted], len(names)


def _spelled(name: str) -> str:
    return re.sub(r"[^a-z]+", "_", name.lower())


def _labelled(entry: Mapping[str, Any], columns: tuple[list[int], int], what: str) -> Labelled:
    chosen, count = columns
    rows = take_numbers(entry.get("keypoints"), (3 * count,), f"{what}: keypoints").reshape(-1, 3)[chosen]
    left, top, width, height = (float(v) for v in take_numbers(entry.get("bbox"), (4,), f"{what}: bbox"))
    area = entry.get("area")
    known = float(area) if isinstance(area, int | float) and 0 < area < math.inf else AREA * width * height
    points = np.where(rows[:, 2:] > 0, rows[:, :2], np.nan).astype(np.float64)
    asked = int((rows[:, 2] > 0).sum()) >= MIN_LABELLED and not entry.get("iscrowd")
    box = np.array((left, top, left + width, top + height)) - 0.5  # it counts from the corner of the image
    return Labelled(points, max(known, 1.0), box, asked)


def evaluate_photographs(
    sets: Sequence[tuple[Path, Path]], bundle: Bundle, engine: Engine, detector: Detector | None
) -> dict[str, Any]:
    """Figures of the photographs of several (annotations, folder of images), see `summary`.

    Raises ConfigError for a bundle of another body, SourceError or SampleError for a damaged file, and what `Estimator`
    raises.
    """
    names = bundle.skeleton.names
    if not set(JOINTS) <= set(names):
        raise ConfigError("bundle", expected=f"joints {', '.join(JOINTS)}", got=f"{bundle.manifest.name} without them")
    chosen, compared = [names.index(joint) for joint in JOINTS], []
    for labels, folder in sets:
        for path, people in labelled_people(labels, folder):
            image = np.ascontiguousarray(read_image(path, f"an image of {labels}")[:, :, ::-1])
            camera = Camera.nominal_for(image.shape[1], image.shape[0])
            found = Estimator(bundle, engine, ALONE, detector=detector)(image, camera)
            compared.append(compare([camera.project(person.joints)[chosen] for person in found], people))
    return summary(compared)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate_photographs", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--bundle", type=Path, default=default_bundle_path(), help="(default: the one that ships)")
    parser.add_argument(
        "--data", type=Path, nargs=2, action="append", required=True, metavar=("ANNOTATIONS", "IMAGES"),
        help="a JSON file as COCO has them, and the folder of its images; several times",
    )  # fmt: skip
    parser.add_argument("--detector", default="auto", help="who finds people: auto, none, or an ONNX file")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args(arguments)
    try:
        bundle = load_bundle(options.bundle)
        engine = open_engine(bundle, engine=options.engine)
        detector = open_detector(options.detector, bundle)
        figures = evaluate_photographs(options.data, bundle, engine, detector)
        if options.json:
            write_report(options.json, figures)
    except MetroError as error:
        print(f"evaluate_photographs: {error}", file=sys.stderr)
        return 2
    print(
        f"{figures['people']} people in {figures['photographs']} photographs: similarity {figures['similarity']:.3f}, "
        f"found {figures['found']:.1%}, posed {figures['posed']:.1%}; "
        f"of whom it found {figures['precision']:.1%} are people"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
