"""Which layout a detector's outputs have: told by their names and shapes, and by what they say of a grey image.

dense     (1, N, K) or (1, K, N), a row for each cell: see metro_ros.core.detectors.dense
rows      (1, N, 6) left, top, right, bottom, score, class: YOLOv10, YOLO26, exports by Ultralytics with NMS;
          (N, 7) image, left, top, right, bottom, class, score: YOLOv7 with ONNX Runtime's NMS
columns   boxes (1, N, 4), scores (1, N), classes (1, N): RT-DETR's and D-FINE's own exports, which also take
          orig_target_sizes; with the number of boxes, exports with NMS as TensorRT has it
scored    boxes with their score (1, N, 5), classes (1, N): exports of YOLOX and RTMDet by MMDeploy
queries   boxes (1, N, 4) centre and size, parts of the image's sides, and logits (1, N, C): DETRs by Hugging Face,
          RF-DETR; or with probabilities in one, (1, N, 4 + C) for C names: RT-DETR by Ultralytics
"""

from functools import partial

import numpy as np

from metro_ros.core.detectors.dense import BOX, recognise_dense
from metro_ros.core.detectors.layout import Candidates, Layout, Outputs, corners, of_class

QUERY_NAMES = (("pred_boxes", "logits"), ("dets", "labels"), ("boxes", "logits"))
"""Boxes and logits: of Hugging Face, of RF-DETR, of others. By name: three classes and one more look like a box."""
COCO_SLOTS, DETR_SLOTS = 91, 92
"""COCO's own ids, where 1 is a person; DETR has one more, for nobody, and a softmax (Carion et al. 2020)."""


def recognise(outputs: Outputs, size: tuple[int, int], classes: int | None, takes_size: bool) -> Layout | None:
    """The layout of `outputs`, what a graph answers to a grey image of `size` (height, width) px; None for no detector.

    classes: how many the file names; takes_size: whether it takes the size that it scales its boxes to.
    """
    return _queries(outputs) or _scored(outputs) or _columns(outputs, takes_size) or _single(outputs, size, classes)


def _queries(outputs: Outputs) -> Layout | None:
    for names in QUERY_NAMES:
        if not set(names) <= set(outputs):
            continue
        boxes, logits = (outputs[name] for name in names)
        if logits.ndim == 3 and logits.dtype.kind == "f" and boxes.shape == (1, logits.shape[1], BOX):
            slots = logits.shape[2]
            of_coco = slots in (COCO_SLOTS, DETR_SLOTS)
            return Layout(
                "queries with logits",
                "detr",
                partial(_read_queries, names=names),
                parts=True,
                imagenet=of_coco or names == QUERY_NAMES[1],  # RT-DETR and D-FINE, with 80 classes, do without
                person=int(of_coco),
                classes=slots,
            )
    return None


def _read_queries(outputs: Outputs, person: int, *, names: tuple[str, str]) -> Candidates:
    boxes, logits = (outputs[name][0] for name in names)
    if logits.shape[1] == DETR_SLOTS:
        log_likelihood = logits[:, person] - np.logaddexp.reduce(logits, axis=1)
    else:
        log_likelihood = -np.logaddexp(0, -logits[:, person])  # of a sigmoid
    return Candidates(corners(boxes), np.exp(log_likelihood))


def _scored(outputs: Outputs) -> Layout | None:
    dets, labels = outputs.get("dets"), outputs.get("labels")
    if dets is None or labels is None or dets.shape != (1, *labels.shape[1:], BOX + 1):
        return None

    def read(outputs: Outputs, person: int) -> Candidates:
        dets = outputs["dets"][0]
        return of_class(dets[:, :BOX], dets[:, BOX], outputs["labels"][0], person)

    return Layout("boxes with score", "yolox", read)


def _columns(outputs: Outputs, takes_size: bool) -> Layout | None:
    found = {kind: _named(outputs, *words) for kind, words in _COLUMNS.items()}
    if any(name is None for kind, name in found.items() if kind != "count"):
        return None
    boxes, scores, classes, count = (found[kind] for kind in ("boxes", "scores", "classes", "count"))
    assert boxes and scores and classes
    rows = outputs[scores].shape
    if len(rows) != 2 or outputs[boxes].shape != (*rows, BOX) or outputs[classes].shape != rows or rows[0] != 1:
        return None

    def read(outputs: Outputs, person: int) -> Candidates:
        found = int(outputs[count].ravel()[0]) if count else outputs[scores].shape[1]
        return of_class(outputs[boxes][0, :found], outputs[scores][0, :found], outputs[classes][0, :found], person)

    return Layout("boxes, scores, classes", "detr" if takes_size else "yolo", read)


_COLUMNS = {"boxes": ("box",), "scores": ("score",), "classes": ("class", "label"), "count": ("num",)}
"""Words in the names of outputs: labels, det_classes, num_dets, num_detections, …"""


def _named(outputs: Outputs, *words: str) -> str | None:
    """The one output with any of these words in its name."""
    names = [name for name in outputs if any(word in name.lower() for word in words)]
    return names[0] if len(names) == 1 else None


def _single(outputs: Outputs, size: tuple[int, int], classes: int | None) -> Layout | None:
    """One table; whatever comes beside it, such as masks or undecoded heads, has another shape and is left alone."""
    for name, table in outputs.items():
        if table.ndim == 2 and table.shape[1] == 7:
            return Layout("rows of a batch", "yolo", partial(_read_batch_rows, name=name))
        if table.ndim == 3 and len(table) == 1:
            layout = recognise_dense(name, table, size, classes)
            if layout is not None:
                return layout
            columns = table.shape[2]
            if columns == 6:
                return Layout("rows", "yolo", partial(_read_rows, name=name))
            if classes is not None and columns == BOX + classes:
                read = partial(_read_probabilities, name=name)
                return Layout("queries with probabilities", "detr", read, parts=True, classes=classes)
    return None


def _read_batch_rows(outputs: Outputs, person: int, *, name: str) -> Candidates:
    rows = outputs[name]
    return of_class(rows[:, 1:5], rows[:, 6], rows[:, 5], person)


def _read_rows(outputs: Outputs, person: int, *, name: str) -> Candidates:
    rows = outputs[name][0]
    return of_class(rows[:, :BOX], rows[:, 4], rows[:, 5], person)


def _read_probabilities(outputs: Outputs, person: int, *, name: str) -> Candidates:
    rows = outputs[name][0]
    return Candidates(corners(rows[:, :BOX]), rows[:, BOX + person])
