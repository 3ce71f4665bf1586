"""Pictures: people over their image, silhouettes, and contact sheets."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from metro_ros.core.camera import Camera
from metro_ros.core.crop import check_image
from metro_ros.core.errors import ImageError
from metro_ros.core.estimator import Person
from metro_ros.core.raster import covered_pixels
from metro_ros.core.skeleton import Skeleton

Image = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

SIDE_BGR: dict[str, Color] = {"left": (60, 200, 60), "right": (60, 60, 230), "middle": (230, 230, 230)}
LIGHT = np.array((-0.3, -0.5, -0.8)) / np.linalg.norm((-0.3, -0.5, -0.8))
"""Unit vector towards the light, camera axes: from above, left of the camera."""
AMBIENT = 0.35
GOLDEN_RATIO = (5**0.5 - 1) / 2
SATURATION, VALUE = 0.6, 0.9
"""Of people's colours."""


def person_color(person_id: int) -> Color:
    """Colour of a person, BGR: one per id, the same in every picture and message.

    Hues step by the golden ratio, so that ids that follow each other lie far apart, and none comes twice.
    """
    red, green, blue = colorsys.hsv_to_rgb((person_id * GOLDEN_RATIO) % 1, SATURATION, VALUE)
    return round(255 * blue), round(255 * green), round(255 * red)


def draw_people(
    image_bgr: Image,
    people: Sequence[Person],
    camera: Camera,
    faces: npt.NDArray[np.int32],
    skeleton: Skeleton,
    rows: npt.NDArray[np.int32] | None = None,
    opacity: float = 0.7,
) -> Image:
    """A copy of `image_bgr`, uint8 (H, W, 3), with each person's mesh, shaded and translucent, and joints and bones.

    faces: (F, 3), normals outward, indices into the person's vertices, or into `rows` of them (V_l,), which draws a
    coarser level. Raises ImageError for an image of another type.
    """
    check_image(image_bgr)
    meshes = image_bgr.copy()
    for person in sorted(people, key=lambda person: -float(person.translation[2])):
        vertices = person.vertices if rows is None else person.vertices[rows]
        _paint_mesh(meshes, vertices, faces, camera, person_color(person.id))
    picture = np.asarray(cv2.addWeighted(image_bgr, 1 - opacity, meshes, opacity, 0), np.uint8)
    for person in people:
        _draw_joints(picture, camera.project(person.joints), skeleton)
    return picture


def silhouette(
    vertices: npt.NDArray[np.floating], faces: npt.NDArray[np.int32], camera: Camera
) -> npt.NDArray[np.bool_]:
    """Mask (H, W) of the pixels whose centre lies in a projected triangle: vertices (V, 3), metres, camera frame.

    Triangles that are not wholly in front of the camera are left out.
    """
    pixels, _ = covered_pixels(camera.project(vertices)[faces], camera.width, camera.height)
    mask = np.zeros(camera.height * camera.width, np.bool_)
    mask[pixels] = True
    return mask.reshape(camera.height, camera.width)


def contact_sheet(images: Sequence[Image], columns: int = 5, cell_width: int = 320) -> Image:
    """Images (H, W, 3) in rows of `columns`, each fitted into a cell of the first one's shape, `cell_width` px wide.

    Raises ImageError when there is none.
    """
    if not images:
        raise ImageError("no images for a contact sheet", expected="one or more")
    cell_height = max(1, round(cell_width * images[0].shape[0] / images[0].shape[1]))
    columns = min(columns, len(images))
    sheet = np.zeros((-(-len(images) // columns) * cell_height, columns * cell_width, 3), np.uint8)
    for index, image in enumerate(images):
        check_image(image)
        scale = min(cell_width / image.shape[1], cell_height / image.shape[0])
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        top = index // columns * cell_height + (cell_height - size[1]) // 2
        left = index % columns * cell_width + (cell_width - size[0]) // 2
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        sheet[top : top + size[1], left : left + size[0]] = cv2.resize(image, size, interpolation=interpolation)
    return sheet


def _paint_mesh(
    canvas: Image, vertices: npt.NDArray[np.floating], faces: npt.NDArray[np.int32], camera: Camera, color: Color
) -> None:
    """Painter's algorithm: faces that look at the camera, far ones first, with Lambert's cosine for shade."""
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    seen = np.einsum("fi,fi->f", normals, corners[:, 0]) < 0
    faces, normals = faces[seen], normals[seen]
    far_first = np.argsort(-corners[seen, :, 2].sum(axis=1))
    faces, normals = faces[far_first], normals[far_first]
    cosine = normals @ LIGHT / np.maximum(np.linalg.norm(normals, axis=1), 1e-12)
    shade = AMBIENT + (1 - AMBIENT) * np.maximum(cosine, 0)
    colors = np.rint(shade[:, None] * np.array(color)).astype(np.uint8)
    pixels, painted = covered_pixels(camera.project(vertices)[faces], camera.width, camera.height)
    order = np.argsort(painted, kind="stable")  # of several values for one pixel NumPy keeps the last, the nearest
    canvas.reshape(-1, 3)[pixels[order]] = colors[painted[order]]


def _draw_joints(canvas: Image, joints_px: npt.NDArray[np.floating], skeleton: Skeleton) -> None:
    radius = max(2, round(max(canvas.shape[:2]) / 240))
    sides = skeleton.sides
    points = [
        (round(float(x)), round(float(y))) if np.isfinite((x, y)).all() and max(abs(x), abs(y)) < 1e4 else None
        for x, y in joints_px
    ]
    for parent, child in skeleton.bones():
        start, end = points[parent], points[child]
        if start is not None and end is not None:
            cv2.line(canvas, start, end, SIDE_BGR[sides[child]], max(1, radius // 2), cv2.LINE_AA)
    for point, side in zip(points, sides, strict=True):
        if point is not None:
            cv2.circle(canvas, point, radius, SIDE_BGR[side], cv2.FILLED, cv2.LINE_AA)
