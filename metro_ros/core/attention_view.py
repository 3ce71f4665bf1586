"""The attention view as a picture: lines from a joint to what it attends to, the brighter the stronger."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from metro_ros.core.attention import Attention, shares
from metro_ros.core.config import check_settings, setting
from metro_ros.core.crop import crop_image
from metro_ros.core.skeleton import Skeleton

Image = npt.NDArray[np.uint8]
Color = tuple[int, ...]

WHITE, GREY, BONE, BACKGROUND = (255, 255, 255), (170, 170, 170), (150, 135, 120), (24, 18, 16)
FONT = cv2.FONT_HERSHEY_SIMPLEX
SHIFT = 4
"""OpenCV draws in fixed point: sixteenths of a pixel."""
FAINTEST = 0.1
"""Where the colour map starts, so that what is hardly attended to can be told from the background."""
BEND = 0.14
"""How far a line is bent, in its length, so that lines in one direction do not hide each other."""
MAX_GAIN = 2.0
"""A dark image is lightened by no more than this: its noise would be too."""


@dataclass(frozen=True, slots=True)
class ViewConfig:
    """How the picture looks."""

    side_px: int = setting(480, "side of the person's crop in the picture, pixels", 128, 4096)
    brightness: float = setting(0.34, "of the lightest parts of the image behind the lines", 0.0, 1.0)
    listed: int = setting(5, "joints in the legend", 1, 20)

    def __post_init__(self) -> None:
        check_settings(self)


def draw_attention(
    image_bgr: Image,
    attention: Attention,
    joints: Sequence[int],
    skeleton: Skeleton,
    regions: npt.NDArray[np.intp],
    config: ViewConfig | None = None,
) -> Image:
    """Panels side by side, one for each of `joints`: the person's crop, lines and dots over it, and a legend below.

    A line's brightness is the attention over the panel's strongest; dots are vertices, rings are joints, and a double
    ring is the joint that attends. The legend names where most of the attention goes: to a joint and the vertices
    nearest to it, `regions` (T,), see `metro_ros.core.attention.token_regions`. Raises ImageError for an image of
    another type.
    """
    config = config or ViewConfig()
    panels = [_panel(image_bgr, attention, joint, skeleton, regions, config) for joint in joints]
    gap = np.full((len(panels[0]), max(2, config.side_px // 120), 3), BACKGROUND, np.uint8)
    row = [part for panel in panels for part in (panel, gap)]
    return np.concatenate(row[:-1], axis=1)


def _panel(
    image: Image,
    attention: Attention,
    joint: int,
    skeleton: Skeleton,
    regions: npt.NDArray[np.intp],
    config: ViewConfig,
) -> Image:
    side = config.side_px
    picture = _background(image, attention, config)
    places = (attention.box.to_crop(attention.tokens_px) + 1) * (side / 2) - 0.5
    drawn = (np.abs(places) < 8 * side).all(axis=1)
    for parent, child in skeleton.bones():
        if drawn[parent] and drawn[child]:
            cv2.line(picture, _fixed(places[parent]), _fixed(places[child]), BONE, 1, cv2.LINE_AA, SHIFT)
    others = attention.weights[joint].copy()
    others[joint] = 0
    strength = others / max(float(others.max()), np.finfo(np.float32).tiny)
    weak_first = [int(token) for token in np.argsort(strength) if drawn[token] and token != joint]
    colors = _colors(strength)
    if drawn[joint]:
        glow = np.zeros_like(picture)
        for token in weak_first:
            curve = np.rint(_arc(places[joint], places[token]) * 2**SHIFT).astype(np.int32)
            width = max(1, round(side / 200 * strength[token]))
            cv2.polylines(glow, [curve], False, colors[token], width, cv2.LINE_AA, SHIFT)
        picture = _screen(picture, glow)
    count = len(attention.joints)
    for token in weak_first:
        radius = side / 240 * (1 + 1.6 * float(strength[token]))
        _disc(picture, places[token], radius, colors[token])
        if token < count:
            _disc(picture, places[token], radius + side / 160, WHITE, 1)
    if drawn[joint]:
        _disc(picture, places[joint], side / 80, WHITE)
        _disc(picture, places[joint], side / 48, WHITE, max(1, side // 240))
    return np.concatenate((picture, _legend(attention, joint, skeleton, regions, config)))


def _background(image: Image, attention: Attention, config: ViewConfig) -> Image:
    """The person's crop, half drained of colour, as bright as the config says."""
    crop = np.asarray(cv2.cvtColor(crop_image(image, attention.box, config.side_px), cv2.COLOR_RGB2BGR), np.uint8)
    pale = 0.5 * crop + 0.5 * crop.mean(axis=2, keepdims=True)
    gain = min(config.brightness * 255 / max(float(np.percentile(pale, 99)), 1.0), MAX_GAIN)
    return np.rint((gain * pale).clip(0, 255)).astype(np.uint8)


def _legend(
    attention: Attention, joint: int, skeleton: Skeleton, regions: npt.NDArray[np.intp], config: ViewConfig
) -> Image:
    """Name of the joint, and bars for where most of its attention goes, with a mark where equal attention would end."""
    line, scale = config.side_px // 20, config.side_px / 960
    legend = np.full(((config.listed + 2) * line, config.side_px, 3), BACKGROUND, np.uint8)
    mesh_color, joint_color = _colors(np.array((0.55, 1.0)))
    listed = shares(attention, joint, regions)[: config.listed]
    start, longest = round(6.4 * line), round(9.2 * line)
    column = start + longest + line // 3
    _text(legend, f"{skeleton.names[joint]} attends to", (line // 2, line), 1.15 * scale, WHITE)
    _text(legend, "joint", (start + 3 * line, line), 0.9 * scale, joint_color)
    _text(legend, "mesh around it", (start + 5 * line, line), 0.9 * scale, mesh_color)
    _text(legend, "| if all equal", (column, line), 0.9 * scale, GREY)
    full = max(max(share.total, share.equal) for share in listed)
    for place, share in enumerate(listed, start=2):
        bottom = round((place + 0.1) * line)
        top = bottom - line // 2
        name = skeleton.names[share.joint] + (" (itself)" if share.joint == joint else "")
        _text(legend, name, (line // 2, bottom), scale, WHITE)
        own, whole, mark = (start + round(part / full * longest) for part in (share.itself, share.total, share.equal))
        cv2.rectangle(legend, (start, top), (whole, bottom), mesh_color, cv2.FILLED)
        cv2.rectangle(legend, (start, top), (own, bottom), joint_color, cv2.FILLED)
        cv2.line(legend, (mark, top - line // 8), (mark, bottom + line // 8), WHITE, max(1, line // 16))
        _text(legend, f"{100 * share.total:.1f} %", (column, bottom), 0.9 * scale, WHITE)
        _text(legend, f"| {100 * share.equal:.1f}", (column + round(2.2 * line), bottom), 0.9 * scale, GREY)
    return legend


def _colors(strength: npt.NDArray[np.floating]) -> list[Color]:
    """BGR of strengths (T,) in 0..1: from a dark violet over red to a light yellow, brighter throughout."""
    table = np.asarray(cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO))[:, 0]
    indices = np.rint(255 * (FAINTEST + (1 - FAINTEST) * np.asarray(strength))).astype(int)
    return [tuple(int(value) for value in table[index]) for index in indices]


def _arc(start: npt.NDArray[np.floating], end: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """(17, 2): a quadratic Bezier curve that bends to one side."""
    along = end - start
    middle = (start + end) / 2 + BEND * np.array((along[1], -along[0]))
    t = np.linspace(0, 1, 17)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end


def _screen(below: Image, above: Image) -> Image:
    """Light added to light, never more than white: 1 - (1 - a)(1 - b)."""
    dark = np.asarray(cv2.multiply(255 - below, 255 - above, scale=1 / 255), np.uint8)
    return np.asarray(255 - dark, np.uint8)


def _fixed(point: npt.NDArray[np.floating]) -> tuple[int, int]:
    return round(float(point[0]) * 2**SHIFT), round(float(point[1]) * 2**SHIFT)


def _disc(canvas: Image, point: npt.NDArray[np.floating], radius: float, color: Color, width: int = cv2.FILLED) -> None:
    cv2.circle(canvas, _fixed(point), round(radius * 2**SHIFT), color, width, cv2.LINE_AA, SHIFT)


def _text(canvas: Image, text: str, corner: tuple[int, int], scale: float, color: Color) -> None:
    cv2.putText(canvas, text, corner, FONT, scale, color, 1, cv2.LINE_AA)
