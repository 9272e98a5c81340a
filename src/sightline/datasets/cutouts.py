"""What synthetic scenes are made of: people and other things to paste, and backgrounds; cut out of annotated images, or
drawn without any data.

Of an annotated box GrabCut (Rother et al. 2004, OpenCV's) finds the shape. So that no edge gives a target away, the
shapes of people are also worn by what is none: cut-outs whose pixels are a piece of background.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from sightline.datasets.stills import Still
from sightline.datasets.table import open_dataset
from sightline.errors import DatasetError
from sightline.geometry.boxes import Box
from sightline.imaging.frames import read_image

Image = NDArray[np.uint8]
T = TypeVar("T")

CUT_PX = 96  # height of a cut-out
SHAPE_PX = 56  # longer side of a box whose shape is looked for
OPAQUE = 128  # from this opacity on a pixel belongs to an object
MIN_PX = 40.0  # lower boxes are not cut out
MAX_SIDE_PX = 144
PERSON_ASPECT = (0.2, 0.62)  # width to height of a person that stands or walks
ROOM = 0.15  # of the box, that GrabCut sees around it
ROUNDS = 3
MIN_SPAN = 0.75  # of the box's sides that the shape must reach over
FILL = (0.3, 0.9)  # share of its box that a shape has
MAX_OVERLAP = 0.15  # of a box that others may cover
GROUND_PX = 352  # sides of a background
PERSON = "person"


@dataclass(frozen=True, eq=False)
class Gallery:
    """`people` and `others` are cut-outs, (h, w, 4) uint8 RGB and opacity, which fill their pictures to the border;
    `grounds` are backgrounds, (H, W, 3) uint8 RGB, in which nobody is."""

    people: Sequence[Image]
    others: Sequence[Image]
    grounds: Sequence[Image]


# Of images


def open_gallery(
    folders: Sequence[str | Path],
    *,
    num_people: int = 600,
    num_others: int = 300,
    num_grounds: int = 300,
    seed: int = 0,
) -> Gallery:
    """Cut-outs from folders in COCO's layout (`datasets.images.own_images`): boxes of the category "person" are people,
    those of any other are other things, and images without people are backgrounds.

    At most so many of each, drawn by `seed`, in some 15 s. A third of the others are people's shapes filled with
    background. What the folders do not have is drawn as in `drawn_gallery`. Raises `DatasetError` and `VideoError` of
    the readers, and where there are folders but no person that can be cut out of them.
    """
    rng = np.random.default_rng((seed, 0))
    people, others, grounds = [], [], []
    for folder in folders:
        dataset = open_dataset("images", "all", folder)
        assert dataset.annotated is not None
        persons = {category.id for category in dataset.annotated.truth.categories if category.name == PERSON}
        people += _boxes(dataset, persons, is_person=True)
        others += _boxes(dataset, persons, is_person=False)
        if persons:  # where nobody was labelled, anybody may be
            grounds += [still.path for still in dataset if not persons & set(_classes(still))]
    drawn = drawn_gallery()
    found_people = _cut(people, PERSON_ASPECT, num_people, rng)
    if folders and not found_people:
        raise DatasetError(
            f"{', '.join(map(str, folders))}: got no person that can be cut out; expected boxes of the category "
            f"{PERSON!r}, {MIN_PX:g} px high or more. Add a folder of people."
        )
    found_grounds = [_as_ground(read_image(path)) for path in _some(grounds, num_grounds, rng)]
    found_people, found_grounds = found_people or list(drawn.people), found_grounds or list(drawn.grounds)
    found_others = _cut(others, (0.1, 4.0), num_others - num_others // 3, rng) or list(drawn.others)
    masked = [_masked(mask, found_grounds, rng) for mask in _some(found_people, num_others // 3, rng)]
    return Gallery(found_people, found_others + masked, found_grounds)


def _classes(still: Still) -> list[int]:
    return [] if still.category is None else still.category.tolist()


def _boxes(stills: Iterable[Still], persons: set[int], *, is_person: bool) -> list[tuple[Path, Box]]:
    """Boxes large enough to cut out, of people or of all else, that hardly any other box of their image covers."""
    found = []
    for still in stills:
        crowds = np.empty((0, 4)) if still.ignored_xywh is None else still.ignored_xywh
        for number, (box, category) in enumerate(zip(still.xywh, _classes(still), strict=True)):
            if (category in persons) != is_person or box[3] < MIN_PX:
                continue
            rest = np.concatenate([np.delete(still.xywh, number, axis=0), crowds])
            if _covered(box, rest) <= MAX_OVERLAP:
                x, y, w, h = box.tolist()
                found.append((still.path, (x, y, w, h)))
    return found


def _covered(box: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """The largest share of a box that one other box covers."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    return float((high - low).clip(min=0).prod(axis=1).max(initial=0)) / float(box[2] * box[3])


def _some(items: Sequence[T], num: int, rng: Generator) -> list[T]:
    """At most `num` of them, in random order."""
    return [items[index] for index in rng.permutation(len(items))[:num].tolist()]


def _cut(boxes: Sequence[tuple[Path, Box]], aspect: tuple[float, float], num: int, rng: Generator) -> list[Image]:
    """Up to `num` cut-outs of boxes whose width to height is in `aspect`."""
    found: list[Image] = []
    for path, xywh in _some(boxes, len(boxes), rng):
        if len(found) == num:
            break
        if aspect[0] <= xywh[2] / xywh[3] <= aspect[1] and (made := cut_out(read_image(path), xywh)) is not None:
            found.append(made)
    return found


def cut_out(rgb: Image, xywh: Box) -> Image | None:
    """The object in a box, at most `CUT_PX` high, (h, w, 4) uint8 RGB and opacity; None where its shape cannot be told,
    or where the image's border cuts it."""
    height, width = rgb.shape[:2]
    x, y, w, h = xywh
    if x < 1 or y < 1 or x + w > width - 1 or y + h > height - 1:
        return None
    x1, y1 = max(int(x - ROOM * w), 0), max(int(y - ROOM * h), 0)
    x2, y2 = min(int(x + (1 + ROOM) * w) + 1, width), min(int(y + (1 + ROOM) * h) + 1, height)
    part = np.ascontiguousarray(rgb[y1:y2, x1:x2])
    shape = _shape(part, (x - x1, y - y1, w, h))
    if shape is None:
        return None
    sx, sy, sw, sh = cv2.boundingRect(shape)
    inside = shape[sy : sy + sh, sx : sx + sw]
    if sw < MIN_SPAN * w or sh < MIN_SPAN * h or not FILL[0] <= inside.mean() <= FILL[1]:
        return None
    scale = min(CUT_PX / sh, MAX_SIDE_PX / sw, 1.0)
    size = max(round(sw * scale), 2), max(round(sh * scale), 2)
    cut = _feathered(part[sy : sy + sh, sx : sx + sw], inside)
    return np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _shape(part: Image, xywh: Box) -> Image | None:
    """Where in a picture the object of a box is, 0 or 1; None where nothing but the object or nothing of it is left.

    Worked out at `SHAPE_PX`, since that takes a time by the pixel.
    """
    scale = min(SHAPE_PX / max(xywh[2:]), 1.0)
    size = max(round(part.shape[1] * scale), 8), max(round(part.shape[0] * scale), 8)
    small = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    x, y, w, h = (value * scale for value in xywh)
    left, top, right, bottom = round(x), round(y), round(x + w), round(y + h)
    mask = np.full(small.shape[:2], cv2.GC_BGD, dtype=np.uint8)
    mask[top:bottom, left:right] = cv2.GC_PR_FGD
    middle = round(x + w / 2), round(y + 0.45 * h)
    cv2.ellipse(mask, middle, (max(1, round(w / 8)), round(h / 4)), 0, 0, 360, cv2.GC_FGD, -1)
    cv2.setRNGSeed(0)  # GrabCut begins with k-means of OpenCV's own generator
    try:
        cv2.grabCut(small, mask, (0, 0, 0, 0), np.zeros((1, 65)), np.zeros((1, 65)), ROUNDS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # no pixel is left for one of the two sides
        return None
    found = _largest(((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)).astype(np.uint8))
    grown = cv2.resize(found * 255, part.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(grown >= OPAQUE, dtype=np.uint8)


def _largest(mask: Image) -> Image:
    """The largest connected piece."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    if count < 2:
        return mask
    return np.asarray(labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()), dtype=np.uint8)


def _feathered(rgb: Image, mask: Image) -> Image:
    """RGB and opacity; the edge is a pixel or two wide, and the opacity at the border of the picture stays."""
    soft = cv2.GaussianBlur(mask * 255, (0, 0), 0.8, borderType=cv2.BORDER_REPLICATE)
    return np.dstack([rgb, soft]).astype(np.uint8)


def _masked(shape: Image, grounds: Sequence[Image], rng: Generator) -> Image:
    """A cut-out's shape with a piece of a background in it."""
    ground = grounds[int(rng.integers(len(grounds)))]
    h, w = shape.shape[:2]
    y, x = (int(rng.integers(side - length + 1)) for side, length in zip(ground.shape, (h, w), strict=False))
    return np.dstack([ground[y : y + h, x : x + w], shape[:, :, 3]])


def _as_ground(rgb: Image) -> Image:
    return np.asarray(cv2.resize(rgb, (GROUND_PX, GROUND_PX), interpolation=cv2.INTER_AREA), dtype=np.uint8)


# Without any data


@lru_cache(maxsize=1)
def drawn_gallery(num: int = 48, seed: int = 0) -> Gallery:
    """Figures with a head, a body and legs are the people; textured ovals, boxes, and figures of one texture the
    others; the backgrounds are textures."""
    rng = np.random.default_rng((seed, 1))
    people = [_figure(rng, is_person=True) for _ in range(num)]
    others = [_figure(rng, is_person=False) if number % 3 == 0 else _blob(rng) for number in range(num)]
    return Gallery(people, others, [_scenery(rng) for _ in range(max(num // 4, 1))])


def texture(rng: Generator, width: int, height: int) -> Image:
    """Blotches of a few colours, and on half of them stripes; (height, width, 3) uint8."""
    colour, spread = rng.integers(20, 236, 3), int(rng.integers(10, 60))
    cells = rng.integers(-spread, spread + 1, (int(rng.integers(3, 9)), int(rng.integers(3, 9)), 3))
    coarse = np.clip(colour + cells, 0, 255).astype(np.uint8)
    made = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.5:
        period, turn = rng.uniform(4, 24), rng.uniform(0, np.pi)
        ys, xs = np.mgrid[:height, :width]
        is_dark = np.sin((xs * np.cos(turn) + ys * np.sin(turn)) * 2 * np.pi / period) > 0
        made[is_dark] = made[is_dark] // 2
    return np.asarray(made, dtype=np.uint8)


def _figure(rng: Generator, is_person: bool) -> Image:
    """A standing figure from its head to its feet, of three textures, or of one that is no person's."""
    height, width = CUT_PX, int(CUT_PX * rng.uniform(0.32, 0.46))
    head, body, legs = (np.zeros((height, width), dtype=np.uint8) for _ in range(3))
    middle, radius = width / 2, height * 0.075
    cv2.ellipse(head, (round(middle), round(radius)), (round(radius * 0.8), round(radius)), 0, 0, 360, 1, -1)
    cv2.rectangle(body, (0, round(0.16 * height)), (width - 1, round(0.5 * height)), 1, -1)
    shoulder = round(0.2 * width)
    for corner in (0, width - 1):
        cv2.circle(body, (corner, round(0.16 * height)), shoulder, 0, -1)
    stride = rng.uniform(0.0, 0.18) * width
    for side in (-1, 1):
        hip, foot, half = middle + side * 0.14 * width, middle + side * (0.16 * width + stride), 0.11 * width
        outline = [(hip - half, 0.5 * height), (hip + half, 0.5 * height), (foot + half, height), (foot - half, height)]
        cv2.fillPoly(legs, [np.rint(outline).astype(np.int32)], 1)
    mask = head | body | legs
    rgb = texture(rng, width, height)
    if is_person:
        skin = np.array([224, 172, 140]) * rng.uniform(0.35, 1.1)
        rgb[head > 0] = np.clip(skin, 0, 255).astype(np.uint8)
        rgb[legs > 0] = texture(rng, width, height)[legs > 0] // 2
    return _feathered(rgb, mask)


def _blob(rng: Generator) -> Image:
    """A superellipse: from nearly a diamond to nearly a box."""
    height, width = (int(rng.integers(CUT_PX // 3, CUT_PX + 1)) for _ in range(2))
    ys, xs = np.mgrid[:height, :width]
    power = rng.uniform(1.4, 8)
    away = np.abs((xs + 0.5) / width * 2 - 1) ** power + np.abs((ys + 0.5) / height * 2 - 1) ** power
    return _feathered(texture(rng, width, height), (away <= 1).astype(np.uint8))


def _scenery(rng: Generator) -> Image:
    """Textures upon a texture."""
    made = texture(rng, GROUND_PX, GROUND_PX)
    for _ in range(int(rng.integers(2, 8))):
        w, h = (int(value) for value in rng.integers(24, GROUND_PX // 2, 2))
        x, y = int(rng.integers(GROUND_PX - w)), int(rng.integers(GROUND_PX - h))
        made[y : y + h, x : x + w] = texture(rng, w, h)
    return made
