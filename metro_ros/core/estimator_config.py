"""Settings of the estimator: how people are found, followed and lost."""

from dataclasses import dataclass

from metro_ros.core.config import check_settings, setting


@dataclass(frozen=True, slots=True)
class EstimatorConfig:
    """How people are found, followed and lost; `detect_period_s` and what is below it count where there is a detector.

    Raises ConfigError for a number outside of its range.
    """

    max_passes: int = setting(3, "most looks at a new person, one after the other", 1, 10)
    settled: float = setting(
        0.05, "a box that moved and grew by less than this fraction of its side is settled", 0.0, 1.0
    )
    min_score: float = setting(0.3, "mean joint visibility under which a person is lost", 0.0, 1.0)
    min_confidence: float | None = setting(
        None, "mean joint confidence under which what is seen is nobody; the model's own if unset", 0.0, 1.0
    )
    min_visible: float = setting(0.2, "part of the box, or of the image if smaller, that both must share", 0.0, 1.0)
    min_box_px: float = setting(16.0, "smallest side of a person's box, pixels", 2.0)
    max_box_ratio: float = setting(4.0, "largest side of a person's box, in larger sides of the image", 1.0)
    box_smoothing: float = setting(0.0, "part of the previous box in the next one; poses are never smoothed", 0.0, 0.95)
    padding: float | None = setting(
        None, "side of the box over the extent of the person; the model's own if unset", 1.0, 4.0
    )
    max_people: int = setting(16, "people followed at most; those with the lowest scores are dropped", 1, 256)
    detect_period_s: float = setting(
        0.2, "seconds of image stamps between two runs of the detector while all are followed", 0.0, 60.0
    )
    birth_score: float = setting(0.5, "score of detection and person at which someone new is shown at once", 0.0, 1.0)
    birth_looks: int = setting(3, "images in which someone new with a lower score must be detected and seen", 1, 100)
    max_lost_s: float = setting(  # to pass behind someone who stands nearer takes a walker 1 s, a stroller 2 s
        2.0, "seconds after which who is hidden is forgotten", 0.0, 60.0
    )
    max_undetected_s: float = setting(
        2.0, "seconds that someone is followed whom the detector, when asked, does not see", 0.0, 600.0
    )

    def __post_init__(self) -> None:
        check_settings(self)
