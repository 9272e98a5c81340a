"""Numbered clips, frames of a video or of one still image that seems to move, with all objects in them, as GTR is
trained. A clip depends on the seed and its number alone.

Facts: xingyizhou/GTR at commit 7138b95b5c7951e763af2a3ced15cb29ac8fc9de. Differences, besides the numbers drawn: videos
and images are drawn with replacement where some of them are officially shuffled once an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from sightline.datasets.cutouts import PERSON, Gallery, drawn_gallery
from sightline.datasets.lvis_coco import image_counts, open_lvis_coco
from sightline.datasets.mixture import NAMED, split_weight
from sightline.datasets.mot_text import FileRows, MotRows
from sightline.datasets.multi import MotSequence
from sightline.datasets.stills import Still
from sightline.datasets.synthetic import SyntheticConfig, SyntheticSequence
from sightline.datasets.table import dataset_row, folder_of, open_dataset
from sightline.datasets.tao_json import Category
from sightline.errors import DatasetError, VideoError
from sightline.geometry.boxes import xywh_to_xyxy
from sightline.imaging.frames import read_image
from sightline.imaging.resize import resized
from sightline.training.pairs import MAX_UNREADABLE, cumulative, pick
from sightline.training.windows import PEDESTRIAN, gallery_of

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LVIS_COCO = "lvis_coco"
SYNTHETIC = "synthetic"
LEAST_SIDE_PX = 1e-5  # of a box in the clip


class ClipExample(NamedTuple):
    """Up to F frames and up to K objects in each; what there is of either comes first.

    frames: (F, S, S, 3) uint8 RGB, black to the right of and below `size`. size: (F, 2) int64, height and width of a
    frame; 0 for none. xyxy: (F, K, 4) float32, px of the frame, of which they may reach out. track_id: (F, K) int64,
    1 or more; 0 for no object. class_id: (F, K) int64 from 0; -1 for no object. num_skipped: how many unreadable
    pictures were passed over for it.
    """

    frames: Image
    size: Ints
    xyxy: NDArray[np.float32]
    track_id: Ints
    class_id: Ints
    num_skipped: int


@dataclass(frozen=True)
class ClipsConfig:
    """How clips are made. With a `clip_length` of 1 they are single pictures, and stills do not move."""

    clip_length: int = 8
    """T, frames of a clip."""
    max_frames: int = 16
    """F: a picture that is seen smaller than `train_px` has more frames, up to so many."""
    window: float = 2.0
    """Frames are drawn, in order, from so many times their number."""
    train_px: int = 1280
    """S: what does not fit into a square of this side is cut off, somewhere."""
    scale: tuple[float, float] = (0.1, 2.0)
    """Pictures are seen so large; at 1 the longer side is `train_px`. All frames of a clip alike."""
    flip_share: float = 0.5
    still_scale: tuple[float, float] = (0.8, 1.2)
    """A still is seen in two such sizes and places, at the clip's ends, and goes from one to the other."""
    clamp_boxes: bool = False
    """Boxes end at the frame's border."""
    max_objects: int = 512
    """K, objects of a frame; of more the largest."""


class Objects(NamedTuple):
    """All objects of a picture: `xywh` (N, 4) in its pixels, `track_id` (N,) from 1, `class_id` (N,) from 0."""

    xywh: Floats
    track_id: Ints
    class_id: Ints


@dataclass(frozen=True, eq=False)
class Video:
    """`num_frames` pictures of one size with their objects, of which `shot(index)` reads one; a still has one."""

    num_frames: int
    shot: Callable[[int], tuple[Image, Objects]]


class ClipExamples:
    """Endless clips by number: `clips[number]` is always the same one; a source is drawn by its weight.

    An unreadable picture is the reader's error; with `skip_unreadable` another clip is drawn instead, and the picture
    counted. Raises `DatasetError` without a source.
    """

    def __init__(
        self,
        sources: Sequence[ClipSource],
        config: ClipsConfig | None = None,
        seed: int = 0,
        skip_unreadable: bool = False,
    ) -> None:
        if not sources:
            raise DatasetError("training clips: got no source; expected NAME[:SPLIT][=FOLDER][*WEIGHT]. Name one.")
        self.sources, self.config, self.seed = sources, config or ClipsConfig(), seed
        self.skip_unreadable = skip_unreadable
        self._odds = cumulative([source.weight for source in sources])

    def __getitem__(self, number: int) -> ClipExample:
        rng, num_skipped = np.random.default_rng((self.seed, number)), 0
        while True:
            try:
                clip = clip_of(self.sources[pick(self._odds, rng)].draw(rng), self.config, rng)
            except (DatasetError, VideoError):
                num_skipped += 1
                if not self.skip_unreadable or num_skipped > MAX_UNREADABLE:
                    raise
                continue
            return clip._replace(num_skipped=num_skipped)


# Of a video to a clip


class View(NamedTuple):
    """A picture `scale` times as large, `height` x `width`, seen from (top, left) on."""

    scale: float
    height: int
    width: int
    top: int
    left: int


def clip_of(video: Video, config: ClipsConfig, rng: Generator) -> ClipExample:
    """Some frames of a video from the same view, all mirrored or none; or one still from a moving view."""
    length = config.clip_length
    if video.num_frames == 1 and length > 1:
        picture, objects = video.shot(0)
        height, width = picture.shape[:2]
        one, other = (random_view(height, width, config.train_px, config.still_scale, rng) for _ in range(2))
        views = [between(one, other, step, length - 1, height, width) for step in range(length)]
        return _stacked([_seen(picture, objects, view, False, config) for view in views], config)

    num = min(video.num_frames, length)
    start = int(rng.integers(video.num_frames - num + 1))
    first = video.shot(start)
    height, width = first[0].shape[:2]
    view = random_view(height, width, config.train_px, config.scale, rng)
    is_mirrored = bool(rng.random() < config.flip_share)
    if config.max_frames > length:
        most = int(num * (config.train_px / max(view.height, view.width)) ** 2)
        if most > length:
            num = min(length + int(rng.integers(most - length + 1)), config.max_frames, video.num_frames)
    end = min(start + int(config.window * num), video.num_frames)
    numbers = np.sort(rng.choice(np.arange(start, end), min(num, end - start), replace=False)).tolist()
    shots = (first if number == start else video.shot(number) for number in numbers)
    return _stacked([_seen(*shot, view, is_mirrored, config) for shot in shots], config)


def random_view(height: int, width: int, side_px: int, scale: tuple[float, float], rng: Generator) -> View:
    """A picture of `scale` times `side_px` on its longer side, seen from anywhere that leaves nothing out in vain."""
    factor = rng.uniform(*scale) * side_px / max(height, width)
    tall, wide = _scaled(height, width, factor)
    top, left = (int(max(0, side - side_px) * rng.random()) for side in (tall, wide))
    return View(factor, tall, wide, top, left)


def between(first: View, last: View, step: int, num_steps: int, height: int, width: int) -> View:
    """The view of a picture `step` of `num_steps` on the way from one to another; its corner in whole pixels, rounded
    towards where that is less."""
    scale = first.scale + (last.scale - first.scale) * step / num_steps
    top, left = (start + (end - start) * step // num_steps for start, end in zip(first[3:], last[3:], strict=True))
    return View(scale, *_scaled(height, width, scale), top, left)


def _scaled(height: int, width: int, scale: float) -> tuple[int, int]:
    return max(1, int(height * scale)), max(1, int(width * scale))


def _seen(
    picture: Image, objects: Objects, view: View, is_mirrored: bool, config: ClipsConfig
) -> tuple[Image, NDArray[np.float64], Ints, Ints]:
    """What a view shows: the picture, at most S x S, and `xyxy`, `track_id` and `class_id` of its objects."""
    large = resized(picture, (view.height, view.width))
    frame = large[view.top : view.top + config.train_px, view.left : view.left + config.train_px]
    height, width = frame.shape[:2]
    xyxy = xywh_to_xyxy(objects.xywh) * view.scale - (view.left, view.top, view.left, view.top)
    if is_mirrored:
        frame = frame[:, ::-1]
        xyxy = np.stack([width - xyxy[:, 2], xyxy[:, 1], width - xyxy[:, 0], xyxy[:, 3]], axis=1)
    if config.clamp_boxes:
        xyxy = np.clip(xyxy, 0, (width, height, width, height))
    size = xyxy[:, 2:] - xyxy[:, :2]
    kept = np.flatnonzero((size > LEAST_SIDE_PX).all(axis=1))
    if len(kept) > config.max_objects:
        kept = np.sort(kept[np.argsort(-size[kept].prod(axis=1), kind="stable")[: config.max_objects]])
    return frame, xyxy[kept], objects.track_id[kept], objects.class_id[kept]


def _stacked(seen: Sequence[tuple[Image, Floats, Ints, Ints]], config: ClipsConfig) -> ClipExample:
    num, side, most = max(config.clip_length, config.max_frames), config.train_px, config.max_objects
    frames, size = np.zeros((num, side, side, 3), np.uint8), np.zeros((num, 2), np.int64)
    xyxy, track_id = np.zeros((num, most, 4), np.float32), np.zeros((num, most), np.int64)
    class_id = np.full((num, most), -1, np.int64)
    for place, (frame, boxes, ids, classes) in enumerate(seen):
        height, width = size[place] = frame.shape[:2]
        frames[place, :height, :width] = frame
        xyxy[place, : len(boxes)], track_id[place, : len(boxes)], class_id[place, : len(boxes)] = boxes, ids, classes
    return ClipExample(frames, size, xyxy, track_id, class_id, 0)


# Sources


@dataclass(frozen=True, eq=False)
class SyntheticClips:
    """Synthetic sequences of `num_frames`, every one another, of which `class_id` is in the clips."""

    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    gallery: Gallery = field(default_factory=drawn_gallery)
    weight: float = 1.0
    name: str = SYNTHETIC
    num_frames: int = 64
    class_id: int = 0

    def draw(self, rng: Generator) -> Video:
        regime = replace(self.synthetic, num_frames=self.num_frames)
        seed, number = (int(value) for value in rng.integers(0, 2**62, 2))
        return Video(self.num_frames, partial(self._shot, SyntheticSequence(regime, seed, number, self.gallery)))

    def _shot(self, sequence: SyntheticSequence, index: int) -> tuple[Image, Objects]:
        images, truth = sequence.window(index, 1)
        kept = truth.visibility > 0
        ids = truth.track_id[kept]
        return images[0], Objects(truth.xywh[kept], ids, np.full_like(ids, self.class_id))


@dataclass(frozen=True, eq=False)
class StillClips:
    """Still images; every object has an identity of its own.

    class_ids: from a still's categories to classes, other objects are left out; None: all are class 0. odds: (N,), how
    much more often than others each still is drawn; None: all alike.
    """

    stills: Sequence[Still]
    weight: float = 1.0
    name: str = "stills"
    class_ids: Mapping[int, int] | None = None
    odds: Floats | None = None

    @cached_property
    def _ends(self) -> Floats:
        return cumulative(np.ones(len(self.stills)) if self.odds is None else self.odds)

    def draw(self, rng: Generator) -> Video:
        return Video(1, partial(self._shot, self.stills[pick(self._ends, rng)]))

    def _shot(self, still: Still, _index: int) -> tuple[Image, Objects]:
        classes = _classes(still, self.class_ids)
        kept = np.flatnonzero(classes >= 0)
        return read_image(still.path), Objects(still.xywh[kept], np.arange(1, len(kept) + 1), classes[kept])


def _classes(still: Still, class_ids: Mapping[int, int] | None) -> Ints:
    """The class of each box; -1 for none."""
    if class_ids is None or still.category is None:
        return np.zeros(len(still.xywh), np.int64)
    return np.array([class_ids.get(category, -1) for category in still.category.tolist()], np.int64)


@dataclass(frozen=True, eq=False)
class SequenceClips:
    """Annotated sequences, each drawn as often as any other: the pedestrians that count and can be seen a bit, of which
    `class_id` is in the clips."""

    sequences: Sequence[MotSequence]
    weight: float = 1.0
    name: str = "sequences"
    class_id: int = 0

    @cached_property
    def _objects(self) -> list[tuple[Ints, Objects]]:
        """Of each sequence the frames of its rows, which rise, and the rows."""
        return [_pedestrians(sequence, self.class_id) for sequence in self.sequences]

    def draw(self, rng: Generator) -> Video:
        which = int(rng.integers(len(self.sequences)))
        return Video(len(self.sequences[which]), partial(self._shot, which))

    def _shot(self, which: int, index: int) -> tuple[Image, Objects]:
        frame, objects = self._objects[which]
        rows = slice(*np.searchsorted(frame, (index, index + 1)).tolist())
        return read_image(self.sequences[which].frames[index]), Objects(
            objects.xywh[rows], objects.track_id[rows], objects.class_id[rows]
        )


def _pedestrians(sequence: MotSequence, class_id: int) -> tuple[Ints, Objects]:
    truth = sequence.truth
    if not isinstance(truth, MotRows):
        raise DatasetError(
            f"{sequence.annotation}: got no MOTChallenge truth; expected a row for each box. Leave {sequence.name} out."
        )
    is_target = (truth.mark == 1) & (truth.class_id == PEDESTRIAN)
    if isinstance(truth, FileRows) and truth.visibility is not None:
        is_target &= truth.visibility > 0
    kept = np.flatnonzero(is_target)
    kept = kept[np.argsort(truth.frame[kept], kind="stable")]
    ids = np.unique(truth.track_id[kept], return_inverse=True)[1].astype(np.int64) + 1
    return truth.frame[kept], Objects(truth.xywh[kept], ids, np.full(len(kept), class_id))


ClipSource = SyntheticClips | StillClips | SequenceClips


def repeat_factors(stills: Iterable[Still], threshold: float) -> Floats:
    """How often each image is to be drawn so that rare classes are seen: max over its classes of max(1, sqrt(t / f)),
    f being the share of images that have the class (LVIS, arXiv 1908.03195, Appendix). 1 for an image without boxes."""
    classes = [set() if still.category is None else set(still.category.tolist()) for still in stills]
    counts: dict[int, int] = {}
    for present in classes:
        for category in present:
            counts[category] = counts.get(category, 0) + 1
    factor = {category: max(1.0, (threshold * len(classes) / count) ** 0.5) for category, count in counts.items()}
    return np.array([max((factor[category] for category in present), default=1.0) for present in classes])


@dataclass(frozen=True, eq=False)
class ClipSources:
    """What `open_clip_sources` finds. image_counts: (K,), in how many images each class has a box, where a federated
    set (LVIS) says so; None else."""

    sources: list[ClipSource]
    image_counts: Floats | None


def open_clip_sources(
    texts: Sequence[str],
    root: str | Path | None,
    class_names: Sequence[str] = (PERSON,),
    *,
    synthetic: SyntheticConfig | None = None,
    cutouts: Sequence[str] = (),
    repeat_threshold: float = 0.0,
    skip_empty: bool = False,
) -> ClipSources:
    """The sources of these texts: "synthetic", "lvis_coco", or `NAME[:SPLIT][=FOLDER]` of a set of images or of
    sequences, with `*WEIGHT` behind, as in `datasets.mixture`.

    class_names: what is learnt, by the names of categories; a set of images without any of them gives all its objects
    as the only class, where there is but one. Of MOT17's three copies of a video one is taken. cutouts: folders of
    images under `root` that synthetic sequences are made of; none: they are drawn. repeat_threshold: of
    `repeat_factors`; 0: images are drawn alike. skip_empty: images without objects are left out. Raises `DatasetError`
    for other texts, and where nothing is to be read.
    """
    found, counts = list[ClipSource](), None
    person = list(class_names).index(PERSON) if PERSON in class_names else 0
    for text in texts:
        place, weight = split_weight(text)
        if place == SYNTHETIC:
            gallery = gallery_of(place, root, cutouts)
            found.append(SyntheticClips(synthetic or SyntheticConfig(), gallery, weight, class_id=person))
            continue
        named = NAMED.fullmatch(place)
        name, split, folder = named.groups(default="") if named else ("", "", "")
        home = Path(root or "").expanduser() / folder if folder else root
        if name == LVIS_COCO:
            stills, annotated = open_lvis_coco(folder_of("lvis", home), split or "train")
        elif name and (kind := dataset_row(name)[1].kind) != "sot":
            dataset = open_dataset(name, split, home)
            if kind == "mot":
                names = dataset.names
                if dataset.name == "mot17":
                    names = [own for own in names if own.endswith("FRCNN")]
                found.append(SequenceClips(list(dataset.only(names)), weight, text, person))
                continue
            assert dataset.annotated is not None
            stills, annotated = list(dataset), dataset.annotated
        else:
            raise DatasetError(
                f"source {text!r}: got no set of images or of many targets; expected synthetic, lvis_coco, or "
                "NAME[:SPLIT][=FOLDER] as images=my_images or mot17:half-train. Run: sightline data"
            )
        class_ids = _class_ids(annotated.truth.categories, class_names, text)
        if skip_empty:
            stills = [still for still in stills if (_classes(still, class_ids) >= 0).any()]
            if not stills:
                raise DatasetError(f"source {text!r}: got no image with an object; expected some. Leave it out.")
        odds = repeat_factors(stills, repeat_threshold) if repeat_threshold else None
        found.append(StillClips(stills, weight, text, class_ids, odds))
        if annotated.truth.negative is not None and class_ids is not None:
            if counts is None:
                counts = np.zeros(len(class_names))
            for category, count in image_counts(annotated).items():
                if category in class_ids:
                    counts[class_ids[category]] += count
    return ClipSources(found, counts)


def _class_ids(categories: Iterable[Category], class_names: Sequence[str], text: str) -> dict[int, int] | None:
    """From categories to classes of the same name; None, for all, where there is one class and it is not among them."""
    places = {name: place for place, name in enumerate(class_names)}
    found = {category.id: places[category.name] for category in categories if category.name in places}
    if not found and len(class_names) > 1:
        raise DatasetError(
            f"source {text!r}: got none of the {len(class_names)} classes; expected categories that are called like "
            "them. Name another."
        )
    return found or None
