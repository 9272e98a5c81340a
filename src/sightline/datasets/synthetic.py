"""Synthetic sequences of many objects over moving backgrounds, with exact amodal ground truth.

Cut-outs (`cutouts.Gallery`) cross a background on smooth paths, come into view and leave it, and cover each other: what
stands lower is nearer. Frame k of sequence (seed, number) depends on the config, the gallery and these three alone, and
is made when it is asked for; a longer sequence begins as a shorter one.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from sightline.datasets.cutouts import OPAQUE, Gallery, drawn_gallery
from sightline.errors import DatasetError
from sightline.files import atomic_path
from sightline.imaging.sheet import write_image

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Range = tuple[float, float]

LAST_FRAME = 10**9
NOISE_PX = 512


@dataclass(frozen=True)
class SyntheticConfig:
    """A regime. Of pairs (low, high) a number is drawn for each sequence, for each object where that is said.

    Lengths in frame heights unless a unit is given; speeds and the like per frame.
    """

    width: int = 256
    height: int = 256
    num_frames: int = 300
    targets: Literal["people", "all"] = "people"
    """What is in the ground truth: people, or every object."""
    num_people: tuple[int, int] = (4, 12)
    """At a time, some of them out of view."""
    num_others: tuple[int, int] = (0, 6)
    object_height: Range = (0.12, 0.5)
    """Heights of a sequence's objects: an object's is within a factor of 1.25 of the sequence's, in the middle."""
    depth: Range = (0.0, 1.5)
    """An object is exp(depth) times as high at the lower border as at the upper one."""
    speed: Range = (0.01, 0.12)
    """Of each object: its own heights per frame."""
    acceleration: Range = (0.0, 0.8)
    """Of each object: its speed varies by up to this share, in one to four waves along its path."""
    weave: Range = (0.0, 0.2)
    """Of each object: how far it strays from its straight path, in its own heights."""
    steepness: float = 0.5
    """Paths rise or fall at most by this share of a right angle."""
    still_share: float = 0.15
    """Of the people: they stand. Of the others half do."""
    crossing_share: float = 0.4
    """Of the paths, at most half: they lead through where another object is at that time."""
    pan: Range = (0.0, 0.15)
    """How far the camera swings, in both directions."""
    zoom: Range = (0.0, 0.1)
    """How much it zooms, in the logarithm."""
    camera_period: Range = (60.0, 400.0)
    """Frames of one swing."""
    shake_px: Range = (0.0, 0.6)
    gain: Range = (0.75, 1.25)
    """Of each object: its brightness."""
    flicker: Range = (0.0, 0.15)
    """How much the picture's brightness swings, in the logarithm."""
    blur_px: Range = (0.0, 0.8)
    """Sigma of a Gaussian."""
    noise: Range = (0.0, 6.0)
    """Standard deviation of a pixel, of 255."""

    def __post_init__(self) -> None:
        """Raises `DatasetError` for what no sequence can have."""
        above_zero = ("width", "height", "num_frames", "object_height", "speed", "camera_period")
        for name in self.__dataclass_fields__:
            low, *high = value if isinstance(value := getattr(self, name), tuple) else (value,)
            if isinstance(low, str):
                continue
            least = 1e-6 if name in above_zero else 0
            if not (math.isfinite(sum((low, *high))) and low >= least and all(bound >= low for bound in high)):
                rule = "above 0" if least else "of 0 or more"
                raise DatasetError(
                    f"synthetic: {name}: got {value}; expected a number {rule}, or two that rise. Change it."
                )
        if self.acceleration[1] > 1:
            raise DatasetError(f"synthetic: acceleration: got {self.acceleration}; expected at most 1. Change it.")


class Truth(NamedTuple):
    """The targets in view, by frame and, in a frame, from the farthest to the nearest.

    `frame` (N,) counts from 0, `track_id` (N,) from 1; `xywh` (N, 4) float64 px is the whole box, hidden or beyond the
    border or not; `visibility` (N,) float64 is the share of the object's own pixels that can be seen.
    """

    frame: Ints
    track_id: Ints
    xywh: Floats
    visibility: Floats


class Clipping(NamedTuple):
    """Some frames of a sequence, (W, H, W', 3) uint8 RGB, and their truth, whose frames count from 0."""

    images: Image
    truth: Truth


@dataclass(frozen=True, eq=False)
class _Life:
    """One object from before its entry to its exit. Positions are of the middle of its foot, in px of the world, which
    is the frame of a camera at rest."""

    track_id: int
    is_target: bool
    cutout: Image
    tallest_px: float
    gain: float
    first: float
    duration: float
    start: Floats
    way: Floats
    height_px: float
    aspect: float
    depth: float
    frame_px: float
    sway: Floats
    """Share and number of waves of the speed, and their phase; px, number and phase of the weaving."""

    @cached_property
    def patch(self) -> Image:
        """The cut-out in its brightness, and no higher than it is ever shown, so that nothing flickers."""
        shrunk = min(1.0, self.tallest_px / self.cutout.shape[0])
        size = max(round(self.cutout.shape[1] * shrunk), 2), max(round(self.cutout.shape[0] * shrunk), 2)
        made = np.array(cv2.resize(np.ascontiguousarray(self.cutout), size, interpolation=cv2.INTER_AREA), np.uint8)
        made[:, :, :3] = cv2.convertScaleAbs(np.ascontiguousarray(made[:, :, :3]), alpha=self.gain)
        return made

    def at(self, time: float) -> tuple[float, float, float, float]:
        """Foot x, y, width, height in px of the world."""
        done = float(_progress((time - self.first) / self.duration, self.sway))
        *_, weave, swings, turn = self.sway.tolist()
        x, y = (self.start + self.way * done).tolist()
        length = math.hypot(*self.way.tolist()) or 1.0
        away = weave * math.sin(2 * math.pi * swings * done + turn) / length
        x, y = x - away * self.way[1], y + away * self.way[0]
        height = self.height_px * math.exp(self.depth * (y / self.frame_px - 0.5))
        return x, y, height * self.aspect, height


def _progress(spent: ArrayLike, sway: Floats) -> Floats:
    """How much of a path is done after a share of its time, both 0 to 1; never falls, since no sway is above 1."""
    share, waves, phase = sway[:3].tolist()
    turns = 2 * math.pi * waves
    return np.asarray(spent + share * (np.sin(turns * np.asarray(spent) + phase) - math.sin(phase)) / turns)


def _way_out(start: Floats, heading: Floats, size: Floats, margin_px: float) -> float:
    """How far it is from a point, along a heading of length 1, to beyond the frame and a margin around it; px."""
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.where(heading > 0, size + margin_px - start, -margin_px - start) / heading
    return max(1.0, float(far[heading != 0].min()))


@dataclass(eq=False)
class _Slot:
    """A place that one object after another takes. All its lives come from one generator, in order."""

    number: int
    is_person: bool
    rng: Generator
    lives: list[_Life] = field(default_factory=list)
    begins: list[float] = field(default_factory=list)


class SyntheticSequence:
    """Sequence (seed, number) of a regime; `len`, `image(k)`, `truth`, `window(k, num)`.

    gallery: what it is made of; by default drawn figures, which need no data. Making a frame of 256 x 256 takes some
    3 ms; the truth of all frames, made when it is first asked for, 0.3 ms a frame.
    """

    def __init__(self, config: SyntheticConfig, seed: int, number: int, gallery: Gallery | None = None) -> None:
        self.config, self.seed, self.number = config, seed, number
        self.gallery = gallery = gallery or drawn_gallery()
        self.name = f"synthetic-{seed}-{number}"
        rng = np.random.default_rng((seed, number))
        num_people, num_others = (
            int(rng.integers(low, high + 1)) for low, high in (config.num_people, config.num_others)
        )
        self._ground = gallery.grounds[int(rng.integers(len(gallery.grounds)))]
        self._ground_flip = bool(rng.random() < 0.5)
        self._height_px = config.height * float(np.exp(rng.uniform(*np.log(config.object_height))))
        self._depth = float(rng.uniform(*config.depth))
        self._pan = rng.uniform(*config.pan) * config.height * rng.uniform(-1, 1, 2)
        self._zoom, self._flicker = float(rng.uniform(*config.zoom)), float(rng.uniform(*config.flicker))
        self._period = rng.uniform(*config.camera_period, 4)
        self._phase = rng.uniform(0, 2 * np.pi, 4)
        self._shake_px, self._blur_px = float(rng.uniform(*config.shake_px)), float(rng.uniform(*config.blur_px))
        self._noise = float(rng.uniform(*config.noise))
        self._slots = [
            _Slot(slot, slot < num_people, np.random.default_rng((seed, number, 1, slot)))
            for slot in range(num_people + num_others)
        ]

    def __len__(self) -> int:
        return self.config.num_frames

    @cached_property
    def truth(self) -> Truth:
        """Of all frames."""
        return _table([self._paste(frame, None) for frame in range(len(self))])

    def image(self, index: int) -> Image:
        """Frame `index`, (H, W, 3) uint8 RGB. Raises `IndexError`."""
        return self._frame(range(len(self))[index])[0]

    def images(self) -> Iterator[Image]:
        """All frames, in order."""
        return map(self.image, range(len(self)))

    def window(self, first: int, num: int, gap: int = 1) -> Clipping:
        """Frames first, first + gap, ..., `num` of them. Raises `IndexError` where they are not all in the sequence."""
        frames = [range(len(self))[first + gap * step] for step in range(num)]
        images, rows = zip(*(self._frame(frame) for frame in frames), strict=True)
        return Clipping(np.stack(images), _table(rows))

    # Paths

    def _life(self, slot: _Slot, time: float) -> _Life | None:
        """The life in a slot at a time, None between two."""
        while not slot.begins or slot.begins[-1] + slot.lives[-1].duration <= time:
            slot.lives.append(self._born(slot))
            slot.begins.append(slot.lives[-1].first)
        which = bisect_right(slot.begins, time) - 1
        life = slot.lives[which] if which >= 0 else None
        return life if life and time < life.first + life.duration else None

    def _born(self, slot: _Slot) -> _Life:
        config, rng = self.config, slot.rng
        size = np.array([config.width, config.height], dtype=np.float64)
        patches = self.gallery.people if slot.is_person else self.gallery.others
        patch = patches[int(rng.integers(len(patches)))]
        aspect = patch.shape[1] / patch.shape[0] * float(rng.uniform(0.9, 1.1))
        height_px = self._height_px * float(rng.uniform(0.8, 1.25)) / max(1.0, aspect)
        through = size * np.array([rng.uniform(0.05, 0.95), rng.uniform(0.3, 1.05)])
        angle = rng.uniform(-1, 1) * config.steepness * math.pi / 2
        heading = np.array([math.cos(angle) * rng.choice((-1, 1)), math.sin(angle)])
        tallest = height_px * math.exp(abs(self._depth) * 0.75)
        margin_px = tallest * max(1.0, aspect) + float(np.abs(self._pan).max()) + config.weave[1] * height_px
        step_px = height_px * float(np.exp(rng.uniform(*np.log(config.speed))))
        span = (size[0] + 2 * margin_px) / step_px  # frames to cross the frame's width
        stands = (
            rng.random() < (config.still_share if slot.is_person else 0.5) and not slot.lives
        )  # else it would pop up
        sway = np.array(
            [
                rng.uniform(*config.acceleration), rng.integers(1, 5), rng.uniform(0, 2 * math.pi),
                rng.uniform(*config.weave) * height_px, rng.uniform(1, 6), rng.uniform(0, 2 * math.pi),
            ]
        )  # fmt: skip
        crosses, whom, beside = rng.random() < 2 * config.crossing_share, rng.random(), float(rng.uniform(-0.1, 0.1))
        gain, is_mirrored = float(rng.uniform(*config.gain)), bool(rng.random() < 0.5)
        # When it is in the middle of its path: the first around frame 0, others after the one before them.
        earliest = slot.begins[-1] + slot.lives[-1].duration if slot.lives else -math.inf
        passing = (earliest + rng.uniform(0.5, 0.8) * span) if slot.lives else rng.uniform(-0.4, 0.6) * span
        passing = abs(passing) if crosses else passing
        if crosses and slot.number % 2 and not stands:  # odd ones cross even ones: nobody looks ahead of one who does
            lives = [self._life(other, passing) for other in self._slots[: slot.number : 2]]
            places = np.array([life.at(passing)[:2] for life in lives if life]).reshape(-1, 2)
            places = places[((places > 0) & (places < size)).all(axis=1)]
            if len(places):
                through = places[int(whom * len(places))] + np.array([0, beside * height_px])
        behind, ahead = (_way_out(through, way, size, margin_px) for way in (-heading, heading))
        duration, way = (behind + ahead) / step_px, heading * (behind + ahead)
        spent = np.linspace(0, 1, 65)
        first = passing - duration * float(np.interp(behind / (behind + ahead), _progress(spent, sway), spent))
        first = max(earliest, first)
        if stands:
            first, duration, behind, way = -1.0, float(LAST_FRAME), 0.0, np.zeros(2)
        return _Life(
            1 + slot.number + len(self._slots) * len(slot.lives),
            slot.is_person or config.targets == "all",
            patch[:, ::-1] if is_mirrored else patch, 1.3 * tallest, gain,
            first, duration, through - heading * behind, way,
            height_px, aspect, self._depth, float(config.height), sway,
        )  # fmt: skip

    def _camera(self, index: int) -> tuple[float, Floats]:
        """Scale and shift from px of the world to px of frame `index`."""
        wave = np.sin(2 * math.pi * index / self._period + self._phase)
        size = np.array([self.config.width, self.config.height])
        scale = math.exp(self._zoom * float(wave[2]))
        shake = self._shake_px * np.random.default_rng((self.seed, self.number, 2, index)).standard_normal(2)
        return scale, size / 2 - scale * (size / 2 + self._pan * wave[:2]) + shake

    def _placed(self, index: int) -> list[tuple[_Life, tuple[float, float, float, float]]]:
        """Who is alive at frame `index`, from the farthest to the nearest, and its box, xywh px of the frame."""
        scale, (right, down) = self._camera(index)
        found = []
        for slot in self._slots:
            if life := self._life(slot, float(index)):
                x, y, w, h = life.at(float(index))
                x, y, w, h = scale * x + right, scale * y + down, scale * w, scale * h
                found.append((y, life, (x - w / 2, y - h, w, h)))
        return [(life, box) for _, life, box in sorted(found, key=lambda row: row[:1])]

    # Pixels

    def _frame(self, index: int) -> tuple[Image, list[tuple[int, tuple[float, ...], float]]]:
        """Frame `index`, and (track_id, xywh, visibility) of each target in view."""
        config = self.config
        size = (config.width, config.height)
        scale, (right, down) = self._camera(index)
        side = min(self._ground.shape[1] / config.width, self._ground.shape[0] / config.height) / 1.25
        turn = np.array([[side / scale, 0, 0], [0, side / scale, 0]], dtype=np.float64)
        turn[:, 2] = [
            -right * turn[0, 0] + 0.125 * side * config.width,
            -down * turn[0, 0] + 0.125 * side * config.height,
        ]
        ground = self._ground[:, ::-1] if self._ground_flip else self._ground
        canvas = np.asarray(
            cv2.warpAffine(
                ground, turn, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101
            ),
            dtype=np.uint8,
        )
        rows = self._paste(index, canvas)
        if self._blur_px > 0.2:
            canvas = np.asarray(cv2.GaussianBlur(canvas, (0, 0), self._blur_px), dtype=np.uint8)
        wave = math.sin(2 * math.pi * index / float(self._period[3]) + float(self._phase[3]))
        canvas = np.asarray(cv2.convertScaleAbs(canvas, alpha=math.exp(self._flicker * wave)), dtype=np.uint8)
        if self._noise > 0.5:
            canvas = _noisy(canvas, self._noise, np.random.default_rng((self.seed, self.number, 3, index)))
        return canvas, rows

    def _paste(self, index: int, canvas: Image | None) -> list[tuple[int, tuple[float, ...], float]]:
        """Paste all objects onto a canvas, in place, or onto none, and say which targets are in view."""
        width, height = self.config.width, self.config.height
        owner = np.zeros((height, width), dtype=np.int32)
        shown = []
        for place, (life, box) in enumerate(self._placed(index), 1):
            x, y, w, h = box
            x1, y1, x2, y2 = math.floor(x), math.floor(y), math.ceil(x + w), math.ceil(y + h)
            left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
            if left >= right or top >= bottom:
                continue
            across, down = life.patch.shape[1] / w, life.patch.shape[0] / h
            turn = np.array([[across, 0, (0.5 + x1 - x) * across - 0.5], [0, down, (0.5 + y1 - y) * down - 0.5]])
            source = life.patch if canvas is not None else life.patch[:, :, 3]
            warped = cv2.warpAffine(source, turn, (x2 - x1, y2 - y1), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
            opacity = warped[:, :, 3] if canvas is not None else warped
            inside = slice(top - y1, bottom - y1), slice(left - x1, right - x1)
            frame = slice(top, bottom), slice(left, right)
            owner[frame][opacity[inside] >= OPAQUE] = place
            if canvas is not None:
                weight = np.multiply(opacity[inside], np.float32(1 / 255), dtype=np.float32)
                pixels = np.ascontiguousarray(warped[inside][:, :, :3])
                canvas[frame] = cv2.blendLinear(pixels, np.ascontiguousarray(canvas[frame]), weight, 1 - weight)
            if life.is_target:
                shown.append((place, life.track_id, box, int(np.count_nonzero(opacity >= OPAQUE))))
        seen = np.bincount(owner.ravel(), minlength=len(self._slots) + 1).tolist()
        return [(track_id, box, seen[place] / max(whole, 1)) for place, track_id, box, whole in shown]


def _noisy(image: Image, sigma: float, rng: Generator) -> Image:
    height, width = image.shape[:2]
    tile = _noise()
    y, x = (int(value) for value in rng.integers(0, NOISE_PX, 2))
    rows, columns = (np.arange(start, start + side) % NOISE_PX for start, side in ((y, height), (x, width)))
    noise = np.ascontiguousarray(tile[rows][:, columns])
    return np.asarray(cv2.addWeighted(image, 1.0, noise, sigma / 32, -4 * sigma), dtype=np.uint8)


@lru_cache(maxsize=1)
def _noise() -> Image:
    """A tile of noise around 128, of standard deviation 32."""
    made = 128 + 32 * np.random.default_rng(0).standard_normal((NOISE_PX, NOISE_PX, 3))
    return np.clip(np.rint(made), 0, 255).astype(np.uint8)


def _table(frames: Sequence[Sequence[tuple[int, tuple[float, ...], float]]]) -> Truth:
    rows = [(number, *row) for number, shown in enumerate(frames) for row in shown]
    frame, track_id = (np.array([row[column] for row in rows], dtype=np.int64) for column in (0, 1))
    xywh = np.array([row[2] for row in rows], dtype=np.float64).reshape(-1, 4)
    return Truth(frame, track_id, xywh, np.array([row[3] for row in rows], dtype=np.float64))


def write_sequence(sequence: SyntheticSequence, folder: Path, *, fps: float = 25.0, with_images: bool = True) -> Path:
    """A sequence in MOTChallenge's layout, `folder/NAME/{seqinfo.ini, img1/, gt/gt.txt}`: its folder.

    Rows are frame, id, x, y, w, h, 1, 1 (a pedestrian), visibility, boxes in hundredths of a px. Raises `DatasetError`
    where it cannot be written.
    """
    home, config, truth = folder / sequence.name, sequence.config, sequence.truth
    try:
        (home / "img1").mkdir(parents=True, exist_ok=True)
        (home / "gt").mkdir(exist_ok=True)
    except OSError as error:
        raise DatasetError(
            f"{home}: got '{error.strerror}'; expected a place for a sequence. Choose another."
        ) from error
    if with_images:
        for number, image in enumerate(sequence.images(), 1):
            write_image(home / "img1" / f"{number:06d}.jpg", image)
    with atomic_path(home / "gt" / "gt.txt") as part:
        rows = np.column_stack([truth.frame + 1, truth.track_id, truth.xywh, np.ones((len(truth.frame), 2))])
        table = np.column_stack([rows, truth.visibility])
        np.savetxt(part, table, fmt="%d,%d,%.2f,%.2f,%.2f,%.2f,%d,%d,%.3f")
    with atomic_path(home / "seqinfo.ini") as part:  # last: a folder that has it is whole
        part.write_text(
            f"[Sequence]\nname={sequence.name}\nimDir=img1\nframeRate={fps:g}\nseqLength={len(sequence)}\n"
            f"imWidth={config.width}\nimHeight={config.height}\nimExt=.jpg\n"
        )
    return home
