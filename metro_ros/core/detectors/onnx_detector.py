"""A detector in an ONNX file: the image goes in as its family wants it, and people come out."""

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from metro_ros.core.crop import check_image
from metro_ros.core.detect import Detections, suppress
from metro_ros.core.detectors import prepare
from metro_ros.core.detectors.config import DetectorConfig, Family
from metro_ros.core.detectors.graph import Graph
from metro_ros.core.detectors.layout import Layout
from metro_ros.core.detectors.recognise import recognise
from metro_ros.core.errors import ConfigError

PERSON = "person"
LAYOUTS = "YOLOX, YOLO, RT-DETR, D-FINE, RF-DETR or the like, with boxes, scores and classes in its outputs"

log = logging.getLogger(__name__)


class OnnxDetector:
    """People by a network of another's making. Not for use by several threads at once."""

    def __init__(self, path: Path, config: DetectorConfig | None = None, threads: int | None = None) -> None:
        """Load the file, and find out by a grey image what its outputs mean.

        threads: None for the library's own choice. Raises ConfigError when it is no detector of a layout that is known,
        or knows no person; EngineError when it cannot be loaded or run.
        """
        self.config = config if config is not None else DetectorConfig()
        self._graph = Graph(path, threads, self.config.input_size)
        try:
            self._layout = self._recognise()
            self._person = self._person_class()
        except BaseException:
            self.close()
            raise
        self._family: Family = self._layout.family if self.config.family == "auto" else self.config.family
        chosen = self.config.normalise
        self._imagenet = self._layout.imagenet if chosen == "auto" else chosen == "imagenet"
        log.info(
            "detector %s: %s, image as for %s, person is class %d", path, self._layout.name, self._family, self._person
        )

    def detect(self, image: npt.NDArray[np.uint8]) -> Detections:
        """Everyone in an image, uint8 (H, W, 3) BGR, the likeliest first; boxes are clipped to the image.

        Raises ImageError for an image of another type, EngineError when the network fails or returns what is not
        finite; the next call works again.
        """
        check_image(image)
        height, width = self._graph.input.size
        canvas, fit = prepare.fit(image, (height, width), self._family)
        boxes, scores = self._layout.read(self._graph.run(self._tensor(canvas)), self._person)
        chosen = scores >= self.config.min_score
        boxes, scores = boxes[chosen], scores[chosen].clip(0, 1)
        if self._layout.parts:
            boxes = boxes * np.array((width, height, width, height), np.float32)
        boxes = fit.to_image(boxes)
        with_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        boxes, scores = boxes[with_area], scores[with_area]
        if self._layout.overlapping:
            order = suppress(boxes, scores, self.config.nms_iou)
        else:
            order = np.argsort(-scores, kind="stable")
        return Detections(boxes[order], scores[order])

    def close(self) -> None:
        """Give the network's memory back; the detector cannot be used after that."""
        self._graph.close()

    def _tensor(self, canvas: npt.NDArray[np.uint8]) -> npt.NDArray:
        entry = self._graph.input
        return prepare.to_tensor(canvas, entry.dtype, self._family, self._imagenet, entry.channels_last)

    def _recognise(self) -> Layout:
        graph = self._graph
        self._family, self._imagenet = "yolo", False  # any will do: no one is in the picture
        outputs = graph.run(self._tensor(np.full((*graph.input.size, 3), prepare.GREY, np.uint8)))
        classes = None if graph.class_names is None else len(graph.class_names)
        layout = recognise(outputs, graph.input.size, classes, graph.takes_size)
        if layout is None:
            raise ConfigError(
                f"{graph.path} is no detector that is known here",
                expected=LAYOUTS,
                got=", ".join(f"{name} {array.dtype} {array.shape}" for name, array in outputs.items()),
                remedy="export it again by one of these projects' own tools, decoded (YOLOv5, YOLOv7: with --grid)",
            )
        return layout

    def _person_class(self) -> int:
        names, person, classes = self._graph.class_names, self.config.person_class, self._layout.classes
        if person < 0:
            person = self._layout.person
            if names is not None:
                called = [index for index, name in names.items() if name.strip().lower() == PERSON]
                person = called[0] if called else 0 if len(names) == 1 else -1
        if (names is not None and person not in names) or (classes is not None and person >= classes):
            known = f"{len(names)}: {', '.join(list(names.values())[:10])}" if names else classes
            raise ConfigError(
                f"the class of a person in {self._graph.path}",
                expected="one of its classes",
                got=f"{known}" if self.config.person_class < 0 else f"{self.config.person_class} of {known}",
                remedy="set person_class to the index of the one to find",
            )
        return person
