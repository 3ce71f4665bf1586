"""How well a bundle's finder finds people in painted frames: recall and precision by how many there are and how tall.

python -m training.finder.evaluate --bundle BUNDLE --data FRAMES [--json OUT]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from metro_ros.core.bundle import load_bundle
from metro_ros.core.detect import Detections, Detector
from metro_ros.core.errors import ConfigError, MetroError
from metro_ros.core.evaluation import MIN_VISIBLE
from metro_ros.core.finder import FinderConfig, open_finder
from metro_ros.core.tracking_metrics import MATCH_IOU, box_iou
from training.datasets.frames import FrameSet
from training.synth.frames import Frame

LEAST_HEIGHT = 0.08
"""Whose box is less than this part of the image's height is neither to be found nor to be missed, nor is who shows
less than MIN_VISIBLE."""
HEIGHTS = (0.08, 0.15, 0.3, 0.6, 1.01)
"""Between which boxes are counted, as parts of the image's height."""


class Found(NamedTuple):
    """What became of one frame.

    scores: (D,) of the detections, best first; right: (D,) 1 for the truth, 0 for nobody, -1 for someone who does not
    count; people: how many count; heights: (people,) of their boxes over the image's; caught: (people,) the score of
    the detection that found each, 0 for none.
    """

    scores: NDArray[np.float32]
    right: NDArray[np.int8]
    people: int
    heights: NDArray[np.float32]
    caught: NDArray[np.float32]


def match(found: Detections, frame: Frame) -> Found:
    """Give every person the likeliest detection that overlaps by MATCH_IOU and has found no one else."""
    height = frame.image.shape[0]
    heights = (frame.boxes[:, 3] - frame.boxes[:, 1]) / height
    counts = (frame.visible >= MIN_VISIBLE) & (heights >= LEAST_HEIGHT)
    overlaps = box_iou(found.boxes + np.float32(0.5), frame.boxes)  # a frame's boxes begin at the image's edge
    right, caught = np.zeros(len(found), np.int8), np.zeros(len(frame.boxes), np.float32)
    for index in range(len(found)):
        free = (overlaps[index] >= MATCH_IOU) & (caught == 0)
        wanted = free & counts
        if wanted.any():
            person = int(np.argmax(overlaps[index] * wanted))
            caught[person], right[index] = found.scores[index], 1
        elif free.any():
            right[index] = -1
    return Found(found.scores, right, int(counts.sum()), heights[counts], caught[counts])


def find_all(finder: Detector, frames: FrameSet) -> list[Found]:
    """Run the finder on every frame."""
    answers = []
    for index in tqdm(range(len(frames)), desc="finding", unit="frame"):
        frame = frames[index]
        answers.append(match(finder.detect(np.ascontiguousarray(frame.image[:, :, ::-1])), frame))
    return answers


def recall_precision(answers: Iterable[Found], score: float) -> dict[str, float]:
    """Both, at a score: of everyone who counts, who was found; of what was found, what is someone."""
    answers = list(answers)
    people = sum(one.people for one in answers)
    caught = sum(int((one.caught >= max(score, 1e-9)).sum()) for one in answers)
    wrong = sum(int(((one.scores >= score) & (one.right == 0)).sum()) for one in answers)
    return {
        "people": people,
        "recall": round(caught / max(people, 1), 4),
        "precision": round(caught / max(caught + wrong, 1), 4),
    }


def best_score(answers: list[Found]) -> tuple[float, dict[str, float]]:
    """The score with the highest F1, in steps of a hundredth, and recall and precision there."""

    def f1(score: float) -> float:
        figures = recall_precision(answers, score)
        recall, precision = figures["recall"], figures["precision"]
        return 2 * recall * precision / max(recall + precision, 1e-9)

    score = max(np.arange(5, 96) / 100, key=f1)
    return float(score), recall_precision(answers, float(score))


def report(answers: list[Found], score: float) -> dict[str, Any]:
    """Recall and precision over all, by number of people, and recall by height."""
    by_people = {}
    for number in sorted({one.people for one in answers}):
        some = [one for one in answers if one.people == number]
        false = sum(int(((one.scores >= score) & (one.right == 0)).sum()) for one in some)
        by_people[str(number)] = {"frames": len(some), "false_per_frame": round(false / len(some), 4)} | (
            recall_precision(some, score) if number else {}
        )
    heights = np.concatenate([one.heights for one in answers]) if answers else np.zeros(0)
    caught = np.concatenate([one.caught for one in answers]) if answers else np.zeros(0)
    by_height = {}
    for low, high in pairwise(HEIGHTS):
        inside = (heights >= low) & (heights < high)
        recall = float((caught[inside] >= score).mean()) if inside.any() else None
        by_height[f"{low:g} to {min(high, 1):g}"] = {"people": int(inside.sum()), "recall": recall and round(recall, 4)}
    return {"score": score, "all": recall_precision(answers, score), "by_people": by_people, "by_height": by_height}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.finder.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="frames by training.finder.frames")
    parser.add_argument("--score", type=float, help="in place of the bundle's own")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args(arguments)
    try:
        bundle = load_bundle(options.bundle)
        finder = open_finder(bundle, config=FinderConfig(min_score=options.score))
        if finder is None:
            raise ConfigError(f"{options.bundle}", expected="a bundle with a finder", got="one without")
        figures = report(find_all(finder, FrameSet(options.data)), finder.min_score)
        text = json.dumps(figures, indent=1)
        if options.json is not None:
            options.json.write_text(text + "\n")
    except (MetroError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
