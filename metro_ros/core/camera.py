"""The camera: projection with lens distortion, rays, and where a body stands in metres.

Frame: optical, x right, y down, z forward (REP-103). Integer pixel coordinates are pixel centres.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
import yaml

from metro_ros.core.crop import Box
from metro_ros.core.errors import CameraError

Array = npt.NDArray[np.floating]
DistortionModel = Literal["none", "plumb_bob", "rational_polynomial", "equidistant"]

COEFFICIENTS: dict[str, tuple[int, ...]] = {
    "none": (0,),
    "plumb_bob": (4, 5),  # k1 k2 p1 p2 [k3]
    "rational_polynomial": (8,),  # k1 k2 p1 p2 k3 k4 k5 k6
    "equidistant": (4,),  # k1..k4 of Kannala and Brandt, "fisheye" in OpenCV
}
NOMINAL_FOV_DEG = 60.0
"""Field of view assumed over the larger side of an image whose camera is not calibrated."""
NEAR_M = 0.05
"""No point of a body is placed nearer to the camera plane than this."""
CALIBRATION_MAX_BYTES = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """A calibrated camera. width, height: px; matrix: (3, 3) px; distortion: coefficients as in sensor_msgs/CameraInfo.

    nominal: True when nobody measured it. Raises CameraError when the calibration is impossible.
    """

    width: int
    height: int
    matrix: npt.NDArray[np.float64]
    distortion: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    model: DistortionModel = "none"
    nominal: bool = False

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, np.float64)
        distortion = np.array(self.distortion, np.float64).reshape(-1)
        if self.width < 1 or self.height < 1:
            raise CameraError("a camera has pixels", expected="positive size", got=f"{self.width}x{self.height}")
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
            raise CameraError("camera matrix", expected="9 finite numbers, 3x3", got=matrix.tolist())
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
            raise CameraError(
                "the camera is not calibrated",
                expected="positive focal lengths in the camera matrix",
                got=f"fx={matrix[0, 0]:g}, fy={matrix[1, 1]:g}",
                remedy="calibrate it (ros2 run camera_calibration cameracalibrator), or give no calibration at all",
            )
        if not np.array_equal(matrix[2], (0.0, 0.0, 1.0)) or matrix[1, 0] != 0:
            raise CameraError("camera matrix", expected="[fx s cx; 0 fy cy; 0 0 1]", got=matrix.tolist())
        if self.model not in get_args(DistortionModel):
            raise CameraError("unknown distortion model", expected=" or ".join(COEFFICIENTS), got=repr(self.model))
        longest = COEFFICIENTS[self.model][-1]
        if len(distortion) > longest and not distortion[longest:].any():
            distortion = distortion[:longest]  # drivers pad with zeros
        if len(distortion) not in COEFFICIENTS[self.model] or not np.isfinite(distortion).all():
            raise CameraError(
                f"distortion of {self.model}",
                expected=f"{' or '.join(map(str, COEFFICIENTS[self.model]))} finite numbers",
                got=distortion.tolist(),
            )
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "distortion", distortion)

    @classmethod
    def nominal_for(cls, width: int, height: int, fov_deg: float = NOMINAL_FOV_DEG) -> "Camera":
        """A camera without distortion that sees `fov_deg` over the larger side, for images that come uncalibrated."""
        focal_px = max(width, height) / 2 / math.tan(math.radians(fov_deg) / 2)
        matrix = np.array(((focal_px, 0, (width - 1) / 2), (0, focal_px, (height - 1) / 2), (0, 0, 1)), np.float64)
        return cls(width, height, matrix, nominal=True)

    @classmethod
    def from_calibration(cls, path: str | Path) -> "Camera":
        """Read the YAML that ROS's camera_calibration writes. Raises CameraError when it is missing or malformed."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                raw = file.read(CALIBRATION_MAX_BYTES + 1)
            if len(raw) > CALIBRATION_MAX_BYTES:
                raise ValueError(f"larger than {CALIBRATION_MAX_BYTES} bytes")
            fields = yaml.safe_load(raw)
            return cls(
                width=int(fields["image_width"]),
                height=int(fields["image_height"]),
                matrix=np.array(fields["camera_matrix"]["data"], np.float64).reshape(3, 3),
                distortion=np.array(fields["distortion_coefficients"]["data"], np.float64),
                model=fields["distortion_model"],
            )
        except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
            raise CameraError(
                f"cannot read the calibration {path}",
                expected="YAML by camera_calibration: image_width, image_height, camera_matrix, distortion_model, "
                "distortion_coefficients",
                got=f"{type(error).__name__} {error}",
            ) from error

    def project(self, points: Array) -> Array:
        """Pixels (N, 2) float64 of points (N, 3), metres, in the camera frame; NaN where a point is not in front."""
        points = np.asarray(points, np.float64)
        depth = np.where(points[:, 2:] > 1e-6, points[:, 2:], np.nan)
        return self._distort(points[:, :2] / depth) @ self.matrix[:2, :2].T + self.matrix[:2, 2]

    def normalize(self, pixels: Array) -> Array:
        """Undistorted rays (x/z, y/z), (N, 2) float64, through pixels (N, 2): the inverse of `project`."""
        pixels = np.asarray(pixels, np.float64).reshape(-1, 2)
        distorted = (pixels - self.matrix[:2, 2]) / np.diag(self.matrix)[:2]
        distorted[:, 0] -= self.matrix[0, 1] / self.matrix[0, 0] * distorted[:, 1]  # skew
        if not self.distortion.any() and self.model != "equidistant":
            return distorted
        if self.model == "equidistant":
            undistorted = cv2.fisheye.undistortPoints(pixels[:, None], self.matrix, self.distortion)
            return np.asarray(undistorted, np.float64)[:, 0]
        rays = np.asarray(cv2.undistortPoints(pixels[:, None], self.matrix, self.distortion), np.float64)[:, 0]
        residual = self._distort(rays) - distorted
        for _ in range(20):  # OpenCV stops after 5 steps, a pixel short on wide lenses
            if np.abs(residual).max(initial=0.0) < 1e-7:
                break
            closer = rays - residual
            closer_residual = self._distort(closer) - distorted
            better = np.abs(closer_residual).max(axis=1) < np.abs(residual).max(axis=1)
            if not better.any():
                break
            rays[better], residual[better] = closer[better], closer_residual[better]
        return rays

    def ray_rotation(self, center_px: Array | tuple[float, float]) -> npt.NDArray[np.float64]:
        """camera_from_ray (3, 3): the smallest rotation that takes +z onto the ray through the pixel `center_px` (2,).

        A network that sees only a crop sees the body from along this ray, so what it predicts is in the ray's frame.
        """
        x, y = self.normalize(np.asarray(center_px, np.float64)[None])[0]
        ray = np.array((x, y, 1.0)) / math.sqrt(x * x + y * y + 1)
        # Rodrigues' formula for the axis cross(z, ray) and the cosine ray_z, which is positive.
        cross = np.array(((0, 0, ray[0]), (0, 0, ray[1]), (-ray[0], -ray[1], 0)))
        return np.eye(3) + cross + cross @ cross / (1 + ray[2])

    def _distort(self, rays: Array) -> Array:
        """Ideal (x/z, y/z) → distorted ones, (N, 2): the models of sensor_msgs/distortion_models."""
        if self.model == "equidistant":
            radius = np.hypot(rays[:, 0], rays[:, 1])[:, None]
            angle = np.arctan(radius)
            square = angle * angle
            k1, k2, k3, k4 = self.distortion
            distorted = angle * (1 + square * (k1 + square * (k2 + square * (k3 + square * k4))))
            return rays * np.where(radius > 1e-9, distorted / np.maximum(radius, 1e-9), 1.0)
        if not self.distortion.any():
            return rays
        k1, k2, p1, p2, k3, k4, k5, k6 = np.pad(self.distortion, (0, 8 - len(self.distortion)))
        x, y = rays[:, 0], rays[:, 1]
        square = x * x + y * y
        radial = (1 + square * (k1 + square * (k2 + square * k3))) / (1 + square * (k4 + square * (k5 + square * k6)))
        return np.stack(
            (
                x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x),
                y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y,
            ),
            axis=1,
        )


def weak_perspective_px(points: Array, camera: Array, box: Box) -> Array:
    """Pixels (N, 2) of points (N, 3) under METRO's camera (s, tx, ty) of the crop `box`.

    u = s·(x + tx), v = s·(y + ty), with the points root-relative, in metres, in the frame that the network predicts in
    (Lin et al., "End-to-End Human Pose and Mesh Reconstruction with Transformers", section 3.3).
    """
    return box.to_pixels(camera[0] * (np.asarray(points)[:, :2] + np.asarray(camera)[1:3]))


def solve_translation(
    points: Array, pixels: Array, camera: Camera, weights: Array | None = None
) -> npt.NDArray[np.float64]:
    """Translation (3,) float64, metres, that puts root-relative `points` (N, 3), camera axes, onto `pixels` (N, 2).

    Each pixel gives two equations that are linear in the translation, x_n·(z + tz) = x + tx and the same in y, with
    (x_n, y_n) its undistorted ray. Their residual is in metres at the point's depth; three passes weighted by the
    inverse depth make it the reprojection error. weights: (N,), optional. The nearest point stays `NEAR_M` in front of
    the camera. Raises CameraError when fewer than two points are given or a number is not finite.
    """
    points = np.asarray(points, np.float64)
    rays = camera.normalize(pixels)
    if len(points) < 2 or len(points) != len(rays) or not (np.isfinite(points).all() and np.isfinite(rays).all()):
        raise CameraError(
            "cannot place a body", expected="two or more finite points and pixels", got=f"{points.shape}, {rays.shape}"
        )
    weight = np.ones(len(points)) if weights is None else np.asarray(weights, np.float64)
    offsets = rays * points[:, 2:] - points[:, :2]  # what t_xy - ray·tz has to equal
    nearest = NEAR_M - float(points[:, 2].min())
    depth = np.ones(len(points))
    translation = np.zeros(3)
    for _ in range(3):
        w = (weight / depth**2)[:, None]
        total = w.sum()
        mean_ray, mean_offset = (w * rays).sum(axis=0) / total, (w * offsets).sum(axis=0) / total
        centred = rays - mean_ray
        spread = (w * centred**2).sum()
        tz = -(w * centred * (offsets - mean_offset)).sum() / max(spread, np.finfo(np.float64).tiny)
        tz = max(tz, nearest)
        translation = np.array((*(mean_offset + mean_ray * tz), tz))
        depth = points[:, 2] + tz
    return translation
