"""Settings of person detectors that are not the bundle's own: an ONNX file, or another node's topic."""

from dataclasses import dataclass
from typing import Literal, get_args

from metro_ros.core.config import check_settings, setting
from metro_ros.core.errors import ConfigError

Family = Literal["yolox", "yolo", "detr"]
"""How a network wants its image, see metro_ros.core.detectors.prepare."""


@dataclass(frozen=True, slots=True)
class DetectorConfig:
    """What counts as a person, and what an ONNX file does not say about itself."""

    min_score: float = setting(0.4, "score under which a detection is no person", 0.01, 1.0)
    nms_iou: float = setting(0.5, "of two boxes that overlap by more than this IoU the likelier one stays", 0.0, 1.0)
    person_class: int = setting(
        -1, "index of the class to find; -1: by the names in the file, else COCO's, 0 of 80 or 1 of 91", -1, 9999
    )
    family: Literal["auto", "yolox", "yolo", "detr"] = setting(
        "auto", "how the image is prepared; yolox: BGR 0..255, yolo: RGB 0..1, detr: RGB 0..1 stretched"
    )
    normalise: Literal["auto", "none", "imagenet"] = setting(
        "auto", "whether ImageNet's mean and deviation are taken off the colours; auto: as the family does"
    )
    input_size: int = setting(640, "side of the input where the file leaves it open, pixels", 32, 4096)

    def __post_init__(self) -> None:
        check_settings(self)
        for name, choices in (("family", ("auto", *get_args(Family))), ("normalise", ("auto", "none", "imagenet"))):
            if getattr(self, name) not in choices:
                raise ConfigError(name, expected=" or ".join(choices), got=repr(getattr(self, name)))
        if self.input_size % 32:
            raise ConfigError("input_size", expected="a multiple of 32", got=self.input_size)
