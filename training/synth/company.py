"""Several people and things in one picture, nearer ones before farther ones, and how much of each can be seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.synth.appearance import Appearance
from training.synth.furniture import Thing, paint_thing, shade_floor
from training.synth.light import Light
from training.synth.placing import Placed
from training.synth.render import rasterise
from training.synth.stage import Posed, Stage


def paint_company(
    scene: NDArray[np.float32],
    stage: Stage,
    people: Sequence[tuple[Posed, Appearance]],
    things: Sequence[Thing],
    placed: Placed,
    light: Light,
) -> NDArray[np.float64]:
    """Paint everyone and everything into a scene (H, W, 3) float32, in place.

    Shadows fall on the floor alone. Whose hips are nearer, along the floor, stands before whose are farther, which is
    exact for people who stay apart (`placing`); `things` come last, as they are ordered.

    Returns:
        (P,) in 0..1, the share of each person's silhouette that shows: inside of the image, and behind nothing.
    """
    camera = placed.view.camera
    size, faces = (camera.width, camera.height), stage.bank.faces
    for thing in things:
        shade_floor(scene, thing, placed, light)
    covers, pixels = [], []
    for posed, appearance in people:
        painted = scene.copy()
        covered = stage.paint(painted, posed, appearance, camera.matrix, placed.down, light)
        scene[~covered] = painted[~covered]
        covers.append(covered)
        pixels.append(painted[covered])
    shown: list[NDArray[np.bool_]] = [covered.copy() for covered in covers]
    before: list[int] = []
    for index in _far_first([posed for posed, _ in people], stage, placed.down):
        scene[covers[index]] = pixels[index]
        for farther in before:
            shown[farther] &= ~covers[index]
        before.append(index)
    for thing in things:
        hidden = paint_thing(scene, thing, camera.matrix, light)
        for seen in shown:
            seen &= ~hidden
    return np.array(
        [
            seen.sum() / max(1, covered.sum()) * inside_share(posed, faces, camera.matrix, *size)
            for seen, covered, (posed, _) in zip(shown, covers, people, strict=True)
        ]
    )


def hidden_share(nearer: Posed, farther: Posed, stage: Stage, placed: Placed, reduction: int = 2) -> float:
    """The part of a bare silhouette that another one hides, at a `reduction`th of the resolution."""
    camera = placed.view.camera
    matrix = camera.matrix.copy()
    matrix[:2] /= reduction
    masks = [
        _mask(posed, stage.bank.faces, matrix, camera.width // reduction, camera.height // reduction)
        for posed in (nearer, farther)
    ]
    return float((masks[0] & masks[1]).sum() / max(1, masks[1].sum()))


def distance_along_floor(point: NDArray[np.floating], down: NDArray[np.floating]) -> float:
    """Metres from the camera to a point (3,) in its frame, heights left out; down: (3,) unit, gravity."""
    return float(np.linalg.norm(point - (point @ down) * down))


def inside_share(posed: Posed, faces: NDArray[np.int32], matrix: NDArray[np.float64], width: int, height: int) -> float:
    """The share of a bare silhouette that lies inside of the image, of what lies at most an image outside of it."""
    pixels = posed.vertices @ matrix.T.astype(np.float32)
    pixels = pixels[:, :2] / pixels[:, 2:]
    if ((pixels > -0.5) & (pixels < (width - 0.5, height - 0.5))).all():
        return 1.0
    wider = matrix.copy()
    wider[:2, 2] += (width, height)
    mask = _mask(posed, faces, wider, 3 * width, 3 * height)
    return float(mask[height : 2 * height, width : 2 * width].sum() / max(1, mask.sum()))


def _far_first(people: Sequence[Posed], stage: Stage, down: NDArray[np.float64]) -> list[int]:
    roots = [posed.joints[list(stage.mesh.root_joints)].mean(axis=0) for posed in people]
    return sorted(range(len(people)), key=lambda index: -distance_along_floor(roots[index], down))


def _mask(
    posed: Posed, faces: NDArray[np.int32], matrix: NDArray[np.float64], width: int, height: int
) -> NDArray[np.bool_]:
    _, covered = rasterise(posed.vertices, faces, np.zeros_like(posed.vertices), matrix, width, height)
    return covered
