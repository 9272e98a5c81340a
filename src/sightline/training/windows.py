"""Numbered windows of frames with all their targets, for trackers that see several frames at once. A window depends on
the seed and its number alone.

`WindowExamples` makes windows of synthetic sequences, of still images, whose camera moves, and of annotated sequences;
`HeatmapExamples` makes of these what OneTrack-M is trained with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from sightline.datasets.cutouts import PERSON, Gallery, drawn_gallery, open_gallery
from sightline.datasets.mixture import NAMED, split_weight
from sightline.datasets.mot_text import FileRows, MotRows
from sightline.datasets.multi import MotSequence
from sightline.datasets.stills import Still
from sightline.datasets.synthetic import SyntheticConfig, SyntheticSequence
from sightline.datasets.table import dataset_row, open_dataset
from sightline.errors import DatasetError, VideoError
from sightline.geometry.heatmaps import FrameTargets, HeatmapRules, displacements, frame_targets
from sightline.imaging.frames import read_image
from sightline.training.augment import jitter_colour
from sightline.training.pairs import MAX_UNREADABLE, cumulative, pick

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SYNTHETIC = ("synthetic", "synthetic:drawn")  # sources that are no data set
PEDESTRIAN = 1
# MOT16's classes that are neither pedestrians nor background: on a vehicle, static, a distractor, a reflection.
NO_BACKGROUND = (2, 7, 8, 12)
MIN_INSIDE = 0.02  # of a box, below which it is not in a frame
MAX_SHRINK = 1.5  # beyond it an image is made smaller by areas before it is cut


class Window(NamedTuple):
    """W frames and all boxes in them, a row for each box and frame.

    frames: (W, S, S, 3) uint8 RGB. frame: (N,) 0..W - 1. track_id: (N,), one for each object, -1 for regions that count
    for nothing, of which `visibility` is 0. xywh_unit: (N, 4) as fractions of the frame, whole boxes, which may reach
    out of it. visibility: (N,) how much of the target can be seen, as far as that is known. num_skipped: how many
    unreadable pictures were passed over for it.
    """

    frames: Image
    frame: Ints
    track_id: Ints
    xywh_unit: Floats
    visibility: Floats
    num_skipped: int


class Rows(NamedTuple):
    """Boxes of some pictures as `Window` has them, but `xywh` in pixels of the pictures."""

    frame: Ints
    track_id: Ints
    xywh: Floats
    visibility: Floats


@dataclass(frozen=True)
class WindowsConfig:
    """How windows are made. Shares of all windows; what is drawn holds for all frames of a window."""

    clip_length: int = 5
    image_px: int = 224
    max_gap: int = 3
    """Frames of sequences are 1 to so many apart."""
    scale: tuple[float, float] = (0.6, 1.4)
    """Sequences are seen so large."""
    shift: float = 0.1
    """And are off by up to this share of the frame, each way."""
    still_height: tuple[float, float] = (0.1, 0.5)
    """Stills are seen at a scale at which one of their boxes has this share of the frame's height."""
    still_scale: tuple[float, float] = (0.7, 4.0)
    """But not smaller or larger than this, 1 being the whole image."""
    still_drift: float = 0.04
    """From frame to frame the camera moves over a still by up to this share of the frame, each way."""
    still_zoom: float = 0.02
    """And zooms by up to this, in the logarithm."""
    flip_share: float = 0.5
    colour_share: float = 0.8


class WindowSource(Protocol):
    """Where windows come from. `draw` gives `num` pictures, their boxes, and of each picture the way into the window:
    (2, 3) from pixels of the picture to fractions of the frame. It raises what readers raise."""

    @property
    def weight(self) -> float: ...

    def draw(self, config: WindowsConfig, rng: Generator) -> tuple[list[Image], Rows, list[Floats]]: ...


class WindowExamples:
    """Endless windows by number: `windows[number]` is always the same one; a source is drawn by its weight.

    An unreadable picture is the reader's error; with `skip_unreadable` another window is drawn instead, and the picture
    counted. Raises `DatasetError` without a source.
    """

    def __init__(
        self,
        sources: Sequence[WindowSource],
        config: WindowsConfig | None = None,
        seed: int = 0,
        skip_unreadable: bool = False,
    ) -> None:
        if not sources or min(source.weight for source in sources) <= 0:
            raise DatasetError("training windows: got no source, or one of no weight; expected some. Add a source.")
        self.sources, self.config, self.seed = sources, config or WindowsConfig(), seed
        self.skip_unreadable = skip_unreadable
        self._odds = cumulative([source.weight for source in sources])

    def __getitem__(self, number: int) -> Window:
        rng, num_skipped = np.random.default_rng((self.seed, number)), 0
        while True:
            source = self.sources[pick(self._odds, rng)]
            try:
                pictures, rows, ways = source.draw(self.config, rng)
            except (DatasetError, VideoError):
                num_skipped += 1
                if not self.skip_unreadable or num_skipped > MAX_UNREADABLE:
                    raise
                continue
            return window_of(pictures, rows, ways, self.config, rng)._replace(num_skipped=num_skipped)


def window_of(
    pictures: Sequence[Image], rows: Rows, ways: Sequence[Floats], config: WindowsConfig, rng: Generator
) -> Window:
    """Cut, mirror and colour the pictures, and put the boxes where they then are; boxes out of sight are left out."""
    is_mirrored, has_other_colours = rng.random() < config.flip_share, rng.random() < config.colour_share
    frames = np.stack([_seen(picture, way, config.image_px) for picture, way in zip(pictures, ways, strict=True)])
    if has_other_colours:
        frames = jitter_colour(frames.reshape(-1, config.image_px, 3), rng).reshape(frames.shape)
    way = np.stack(ways)[rows.frame] if len(rows.frame) else np.empty((0, 2, 3))
    scale = way[:, [0, 1], [0, 1]]
    xywh = np.concatenate([rows.xywh[:, :2] * scale + way[:, :, 2], rows.xywh[:, 2:] * scale], axis=1)
    if is_mirrored:
        frames = np.ascontiguousarray(frames[:, :, ::-1])
        xywh[:, 0] = 1 - xywh[:, 0] - xywh[:, 2]
    low, high = np.clip(xywh[:, :2], 0, 1), np.clip(xywh[:, :2] + xywh[:, 2:], 0, 1)
    inside = (high - low).prod(axis=1) / np.maximum(xywh[:, 2:].prod(axis=1), 1e-12)
    kept = (inside >= MIN_INSIDE) & (xywh[:, 2:] > 0).all(axis=1)
    visibility = np.minimum(rows.visibility, inside)  # what a source's own border hides, it may have told already
    return Window(frames, rows.frame[kept], rows.track_id[kept], xywh[kept], visibility[kept], 0)


def _seen(picture: Image, way: Floats, side_px: int) -> Image:
    """The part of a picture that a way leads into the frame; grey of the picture's mean around it."""
    height, width = picture.shape[:2]
    turn = way * side_px
    shrink = 1 / max(turn[0, 0], turn[1, 1])
    if shrink > MAX_SHRINK:
        size = max(1, round(width * turn[0, 0])), max(1, round(height * turn[1, 1]))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        turn = np.array([[turn[0, 0] * width / size[0], 0, turn[0, 2]], [0, turn[1, 1] * height / size[1], turn[1, 2]]])
    elif way[0, 2] == way[1, 2] == 0 and turn[0, 0] * width == turn[1, 1] * height == side_px:
        return picture if width == height == side_px else np.asarray(cv2.resize(picture, (side_px, side_px)), np.uint8)
    turn = turn.copy()
    turn[:, 2] += (turn[[0, 1], [0, 1]] - 1) / 2  # OpenCV's pixels lie at whole numbers
    grey = cv2.mean(picture[::8, ::8])
    return np.asarray(
        cv2.warpAffine(picture, turn, (side_px, side_px), borderMode=cv2.BORDER_CONSTANT, borderValue=grey),
        dtype=np.uint8,
    )


def _way(scale: float, centre: Floats, width: int, height: int) -> Floats:
    """A picture `scale` times as large as the frame, so that `centre`, (2,) as fractions of the picture, is in the
    frame's middle."""
    return np.array([[scale / width, 0, 0.5 - scale * centre[0]], [0, scale / height, 0.5 - scale * centre[1]]])


def _any_way(config: WindowsConfig, rng: Generator, width: int, height: int) -> Floats:
    scale = math.exp(rng.uniform(*np.log(config.scale)))
    return _way(scale, 0.5 + rng.uniform(-config.shift, config.shift, 2) / scale, width, height)


# Sources


@dataclass(frozen=True, eq=False)
class SyntheticWindows:
    """Windows of synthetic sequences, every one of another sequence, whose seed is 2^32 or more; nothing of the config
    but the window's length and size is heeded, since the regime says how things move."""

    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    gallery: Gallery = field(default_factory=drawn_gallery)
    weight: float = 1.0

    def draw(self, config: WindowsConfig, rng: Generator) -> tuple[list[Image], Rows, list[Floats]]:
        regime = replace(self.synthetic, num_frames=config.clip_length)
        seed, number = (int(value) for value in rng.integers(2**32, 2**62, 2))  # smaller seeds are left for tests
        images, truth = SyntheticSequence(regime, seed, number, self.gallery).window(0, config.clip_length)
        way = _way(1.0, np.array([0.5, 0.5]), regime.width, regime.height)
        return list(images), Rows(*truth), [way] * len(images)


@dataclass(frozen=True, eq=False)
class StillWindows:
    """Windows of still images over which a camera moves; the boxes of a class, or with `class_id` None all."""

    stills: Sequence[Still]
    weight: float = 1.0
    class_id: int | None = None

    def draw(self, config: WindowsConfig, rng: Generator) -> tuple[list[Image], Rows, list[Floats]]:
        still = self.stills[int(rng.integers(len(self.stills)))]
        picture = read_image(still.path)
        height, width = picture.shape[:2]
        boxes = still.xywh
        if self.class_id is not None and still.category is not None:
            boxes = boxes[still.category == self.class_id]
        ignored = np.empty((0, 4)) if still.ignored_xywh is None else still.ignored_xywh
        scale, centre = 1.0, np.array([0.5, 0.5])
        if len(boxes):
            around = boxes[int(rng.integers(len(boxes)))]
            share = math.exp(rng.uniform(*np.log(config.still_height)))
            scale = float(np.clip(share * height / max(around[3], 1.0), *config.still_scale))
            centre = (around[:2] + around[2:] / 2) / (width, height)
        # Anywhere that the picture fills the frame, or lies in it; then on from there.
        reach = abs(0.5 - 0.5 / scale)
        low, high = (0.5 - reach, 0.5 + reach)
        centre = np.clip(centre + rng.uniform(-0.4, 0.4, 2) / scale, low, high)
        drift = rng.uniform(-1, 1, 2) * rng.random() * config.still_drift / scale
        zoom = rng.uniform(-1, 1) * rng.random() * config.still_zoom
        times = np.arange(config.clip_length) - (config.clip_length - 1) / 2
        ways = [_way(scale * math.exp(zoom * time), centre + drift * time, width, height) for time in times.tolist()]
        count, num = len(boxes), config.clip_length
        ids = np.concatenate([np.arange(count), np.full(len(ignored), -1)])
        rows = Rows(
            np.repeat(np.arange(num), len(ids)),
            np.tile(ids, num),
            np.tile(np.concatenate([boxes, ignored]), (num, 1)),
            np.tile((ids >= 0).astype(np.float64), num),
        )
        return [picture] * num, rows, ways


@dataclass(frozen=True, eq=False)
class SequenceWindows:
    """Windows of annotated sequences, drawn by their length. Only pedestrians that are to be scored are targets;
    MOTChallenge's other people and its distractors are regions that count for nothing."""

    sequences: Sequence[MotSequence]
    weight: float = 1.0

    @cached_property
    def _odds(self) -> Floats:
        return cumulative([len(sequence) for sequence in self.sequences])

    @cached_property
    def _rows(self) -> list[Rows]:
        """Of each sequence, by frame."""
        return [_known(sequence) for sequence in self.sequences]

    def draw(self, config: WindowsConfig, rng: Generator) -> tuple[list[Image], Rows, list[Floats]]:
        which = pick(self._odds, rng)
        sequence, rows, num = self.sequences[which], self._rows[which], config.clip_length
        room = max((len(sequence) - 1) // max(num - 1, 1), 1)
        gap = int(rng.integers(1, min(config.max_gap, room) + 1))
        first = int(rng.integers(max(len(sequence) - gap * (num - 1), 1)))
        numbers = np.minimum(first + gap * np.arange(num), len(sequence) - 1)  # a short one stands still at its end
        pictures = [read_image(sequence.frames[number]) for number in numbers.tolist()]
        height, width = pictures[0].shape[:2]
        begin, end = (np.searchsorted(rows.frame, numbers, side=side) for side in ("left", "right"))
        chosen = np.concatenate([np.arange(*span) for span in zip(begin, end, strict=True)])
        place = np.repeat(np.arange(num), end - begin)
        way = _any_way(config, rng, width, height)
        found = Rows(place, rows.track_id[chosen], rows.xywh[chosen], rows.visibility[chosen])
        return pictures, found, [way] * num


def _known(sequence: MotSequence) -> Rows:
    truth = sequence.truth
    if not isinstance(truth, MotRows):
        raise DatasetError(
            f"{sequence.annotation}: got no MOTChallenge truth; expected a row for each box. Leave {sequence.name} out."
        )
    visibility = np.ones(len(truth.frame))
    if isinstance(truth, FileRows) and truth.visibility is not None:
        visibility = truth.visibility
    is_target = (truth.mark != 0) & (truth.class_id == PEDESTRIAN)
    kept = np.flatnonzero(is_target | np.isin(truth.class_id, NO_BACKGROUND))
    kept = kept[np.argsort(truth.frame[kept], kind="stable")]
    is_target = is_target[kept]
    ids = np.where(is_target, truth.track_id[kept], -1)
    return Rows(truth.frame[kept], ids, truth.xywh[kept], np.where(is_target, visibility[kept], 0.0))


def gallery_of(text: str, root: str | Path | None, cutouts: Sequence[str]) -> Gallery:
    """What the sequences of "synthetic" or "synthetic:drawn" are made of; of the same folders, opened once."""
    folders = tuple(Path(root or "").expanduser() / folder for folder in cutouts if text == SYNTHETIC[0])
    return _opened(folders) if folders else drawn_gallery()


@lru_cache(maxsize=1)
def _opened(folders: tuple[Path, ...]) -> Gallery:
    return open_gallery(folders)


def open_window_sources(
    texts: Sequence[str], root: str | Path | None, synthetic: SyntheticConfig, cutouts: Sequence[str] = ()
) -> list[WindowSource]:
    """The sources of these texts: "synthetic", "synthetic:drawn", or `NAME[:SPLIT][=FOLDER]` of a set of images or of
    sequences, with `*WEIGHT` behind, as in `datasets.mixture`. Of images the boxes of persons are taken, or all where
    there is no such class.

    cutouts: folders of images under `root` that synthetic sequences are made of (`datasets.cutouts.open_gallery`, some
    12 s); without them, and of synthetic:drawn, figures are drawn. Raises `DatasetError` for other texts, and where
    nothing is to be read.
    """
    found: list[WindowSource] = []
    for text in texts:
        place, weight = split_weight(text)
        if place in SYNTHETIC:
            found.append(SyntheticWindows(synthetic, gallery_of(place, root, cutouts), weight))
            continue
        named = NAMED.fullmatch(place)
        name, split, folder = named.groups(default="") if named else ("", "", "")
        kind = dataset_row(name)[1].kind if name else "sot"
        if kind == "sot":
            raise DatasetError(
                f"source {text!r}: got no set of images or many targets; expected synthetic, synthetic:drawn, or "
                "NAME[:SPLIT][=FOLDER], as images=my_images or mot17:half-train. Run: sightline data"
            )
        dataset = open_dataset(name, split, Path(root or "").expanduser() / folder if folder else root)
        if dataset.annotated is None or kind == "mot":
            found.append(SequenceWindows(list(dataset), weight))
        else:
            classes = dataset.annotated.truth.categories
            person = next((category.id for category in classes if category.name == PERSON), None)
            found.append(StillWindows(list(dataset), weight, person))
    return found


# Targets


class HeatmapExample(NamedTuple):
    """A window and what its maps learn: `geometry.heatmaps.FrameTargets` of its W frames, stacked."""

    frames: Image
    heat_map: NDArray[np.float32]
    is_counted: NDArray[np.bool_]
    cells: Ints
    sizes: NDArray[np.float32]
    displacements: NDArray[np.float32]
    is_object: NDArray[np.bool_]
    has_displacement: NDArray[np.bool_]
    num_skipped: int


@dataclass(frozen=True, eq=False)
class HeatmapExamples:
    """Windows as OneTrack-M learns them: maps of `grid` x `grid` cells, at most `max_objects` objects in a frame, of
    more the largest."""

    windows: WindowExamples
    grid: int
    rules: HeatmapRules
    max_objects: int = 100

    def __getitem__(self, number: int) -> HeatmapExample:
        window = self.windows[number]
        moved = moved_unit(window)
        frames = [self._targets(window, moved, place) for place in range(len(window.frames))]
        fields = {name: np.stack([getattr(targets, name) for targets in frames]) for name in FrameTargets._fields}
        return HeatmapExample(frames=window.frames, num_skipped=window.num_skipped, **fields)

    def _targets(self, window: Window, moved: Floats, place: int) -> FrameTargets:
        rows = np.flatnonzero(window.frame == place)
        rows = rows[np.argsort(-window.xywh_unit[rows, 2:].prod(axis=1), kind="stable")]
        is_object = window.visibility[rows] >= self.rules.min_visibility
        rows = rows[~is_object | (np.cumsum(is_object) <= self.max_objects)]
        return frame_targets(
            window.xywh_unit[rows],
            self.grid,
            self.rules,
            visibility=window.visibility[rows],
            displacements=moved[rows],
            max_objects=self.max_objects,
        )


def moved_unit(window: Window) -> Floats:
    """(N, 2) from each box's centre to where it was one frame of the window before, fractions of the frame; nan where
    it was not there."""
    centre = window.xywh_unit[:, :2] + window.xywh_unit[:, 2:] / 2
    moved = displacements(window.frame, window.track_id, centre)
    moved[window.track_id < 0] = np.nan
    return moved
