"""Who finds people in whole images: the bundle's own finder, a detector in an ONNX file, or nobody."""

from pathlib import Path

from metro_ros.core.bundle import Bundle
from metro_ros.core.detect import Detector
from metro_ros.core.detectors.config import DetectorConfig
from metro_ros.core.detectors.onnx_detector import OnnxDetector
from metro_ros.core.errors import ConfigError

__all__ = ["DetectorConfig", "OnnxDetector", "open_detector"]


def open_detector(
    choice: str,
    bundle: Bundle,
    threads: int | None = None,
    config: DetectorConfig | None = None,
    hurried: bool = False,
) -> Detector | None:
    """The detector of `choice`: `auto` for the bundle's own, if it has one; `none`; or the path of an ONNX file.

    threads: None for the library's own choice; config: for an ONNX file; hurried: whether the bundle's own may look at
    parts of an image in turn, call for call, as suits images that follow each other. Raises ConfigError when there is
    no such file or it is no detector, EngineError when a network cannot be loaded or run, BundleError when the bundle
    is damaged.
    """
    if choice == "none":
        return None
    if choice == "auto":
        if bundle.part_file("finder") is None:
            return None
        from metro_ros.core.detectors.built_in import BuiltIn
        from metro_ros.core.finder import Finder
        from metro_ros.core.prominent import PART, ProminentPeople

        finder = Finder(bundle, threads=threads)
        if PART not in bundle.manifest.parts:
            return finder
        return BuiltIn(finder, ProminentPeople(bundle, threads, hurried))
    path = Path(choice).expanduser()
    if not path.is_file():
        raise ConfigError("detector", expected="auto, none, or an ONNX file", got=f"{choice!r}, which is no file")
    return OnnxDetector(path, config, threads)
