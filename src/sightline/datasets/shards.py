"""Footage packed for training: small JPEGs in a few large files, found by an index that is mapped, not loaded.

A folder of shards holds

    shards.json     the format, how pictures were packed, the bytes of each shard, and the sources: name, kind, weight,
                    first and past-the-last row of footage.npy
    footage.npy     a row per footage: its name, first and past-the-last row of index.npy
    index.npy       a row per picture of a footage: where its JPEG is, the target's box in it, whether it is visible
    00000.jpgs ...  the JPEGs, one behind the other; one that several footage share is there once
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self, overload

import cv2
import numpy as np
from numpy.typing import NDArray

from sightline.datasets.clips import has_area
from sightline.datasets.footage import Footage, Image, Source
from sightline.errors import DatasetError, SightlineError
from sightline.files import NO_ROOM
from sightline.geometry.crops import CropRegion, snapped_region
from sightline.imaging.frames import decode_image

Floats = NDArray[np.float64]

FORMAT = 1
ABOUT, FOOTAGE, INDEX, SHARD = "shards.json", "footage.npy", "index.npy", "{:05d}.jpgs"
# Offset and length in bytes, xywh in pixels of the packed picture.
ROW = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("length", "<u4"), ("xywh", "<f8", (4,)), ("is_visible", "?")])
JPEG = b"\xff\xd8\xff"
MAX_MAPPED = 256  # shards at a time in each process; a map costs a file descriptor


def footage_row(name_bytes: int) -> np.dtype[Any]:
    """A row of footage.npy; names are UTF-8."""
    return np.dtype([("name", f"S{name_bytes}"), ("begin", "<i8"), ("end", "<i8")])


# Writing


class Packed(NamedTuple):
    """What was written. `num_pictures` are rows: more than the JPEGs where footage share them. `unreadable` tells of
    the first of the `num_unreadable` pictures that were left out, "" without any."""

    num_footage: int
    num_pictures: int
    num_bytes: int
    num_unreadable: int
    unreadable: str


def pack(
    sources: Sequence[Source],
    folder: str | Path,
    *,
    side_px: int = 400,
    crop: float | None = None,
    quality: int = 92,
    shard_mb: int = 256,
    skip_unreadable: bool = False,
    on_share: Callable[[float], object] = lambda share: None,
) -> Packed:
    """Write the pictures of all sources, small, to a new folder, from which `open_shards` gives the sources back.

    Without `crop` these are whole frames, their longer side at most `side_px`. With it each is a square around the
    target, `crop` sqrt(wh) long, as far as it lies in the frame, scaled so that the whole square would be at most
    `side_px`: the target has up to `side_px / crop` pixels whatever the frame. Where it is not visible, the square is
    around its last visible box. Footage that never shows it is left out. Nothing is enlarged. Boxes are in pixels of
    the packed picture.

    A trainer pads what lies outside a picture: right where the frame ends too, wrong where only the square does. Which
    is which is not recorded, so leave room for the jitter. Of sightline-nano's search regions .5 % reach out of a
    square of `crop` 8, with .02 % of all pixels; of OSTrack-256's and MVT's 8 % (.6 %), of 10 .5 % (.03 %); of
    OSTrack-384's, which jitters more, of 16 3 % (.4 %). A region of factor f that becomes S pixels is not blurred where
    `side_px >= crop * S / f`: 384 at `crop` 8 for nano, 640 at 10 for the 256s. The least size that a trainer asks of a
    target counts in the packed picture: for OSTrack's 50 px of COCO's targets, pack whole frames of 640.

    `quality` is JPEG's, 1 to 100; a shard has at most `shard_mb` MiB, or one picture. `on_share` is told after each
    picture which share of the work is done, 0 to 1. The same pictures and numbers give the same bytes. One core works,
    .3 ms a picture of 400 px beside decoding the source; folders packed side by side can be opened together.

    Raises `DatasetError` for a folder that is neither new nor empty, numbers out of range and a full disk; the folder
    appears when it is whole. A picture that cannot be read raises its error, or is left out (`skip_unreadable`).
    """
    for what, value, low, high in (
        ("sources", len(sources), 1, 2**20),
        ("side", side_px, 1, 2**15),
        ("crop", 1 if crop is None else crop, 1, 1000),
        ("quality", quality, 1, 100),
        ("shard size in MiB", shard_mb, 1, 2**20),
    ):
        if not low <= value <= high:
            raise DatasetError(f"pack, {what}: got {value}; expected {low} to {high:,}. Choose another.")
    total, done = sum(len(source.footage) for source in sources), 0
    about: list[dict[str, Any]] = []
    unreadable: list[str] = []
    with _new_folder(Path(folder)) as part, _Writer(part, shard_mb * 2**20) as writer:
        for source in sources:
            first = len(writer.footage)
            for footage in each_image_once(source) if source.kind == "stills" else source.footage:
                for index, rgb in _pictures(footage, unreadable if skip_unreadable else None):
                    region = _region(footage, index, rgb, side_px, crop)
                    picture, xywh = shrink(rgb, footage.xywh[index], region)
                    writer.add(_encode(picture, quality), xywh, bool(footage.is_visible[index]))
                    on_share((done + (index + 1) / len(footage)) / total)
                writer.end(footage.name)
                done += 1
            rows = [first, len(writer.footage)]
            if rows[0] == rows[1]:
                why = unreadable[-1] if unreadable else "Check the source."
                raise DatasetError(f"{source.name}: got no picture that can be packed; expected some. {why}")
            about.append({"name": source.name, "kind": source.kind, "weight": source.weight, "footage": rows})
        writer.finish({"side_px": side_px, "crop": crop, "quality": quality, "sources": about})
    return Packed(len(writer.footage), writer.num_rows, sum(writer.sizes), len(unreadable), (unreadable or [""])[0])


def each_image_once(source: Source) -> Iterator[Footage]:
    """Stills that decode an image once for all of its targets, which come one after the other."""
    image: str = ""
    newest: Image | None = None

    def read(footage: Footage) -> Image:
        nonlocal image, newest
        name = footage.name.rpartition("/")[0]  # the image's, where it may have several targets
        if newest is None or not name or name != image:
            newest = footage.read(0)
            image = name
        return newest

    for footage in source.footage:
        yield replace(footage, read_all=partial(map, read, [footage]))


def _region(footage: Footage, index: int, rgb: Image, side_px: int, crop: float | None) -> CropRegion:
    """The square that is packed of a picture, larger than the whole of it or around its target."""
    if crop is None:
        return CropRegion(0, 0, max(rgb.shape[:2]), side_px)
    visible = np.flatnonzero(footage.is_visible)
    nearest = visible[max(int(np.searchsorted(visible, index, side="right")) - 1, 0)]
    return snapped_region(tuple(footage.xywh[nearest].tolist()), crop, side_px)


def shrink(rgb: Image, xywh: Floats, region: CropRegion) -> tuple[Image, Floats]:
    """The part of a region of whole pixels that lies in the frame, resampled by the region's scale if that is below 1,
    and the box in its pixels. At least one pixel, whatever lies in the frame."""
    height, width = rgb.shape[:2]
    x1, y1 = min(max(int(region.x1), 0), width - 1), min(max(int(region.y1), 0), height - 1)
    x2 = max(min(int(region.x1 + region.side_px), width), x1 + 1)
    y2 = max(min(int(region.y1 + region.side_px), height), y1 + 1)
    cut, scale = rgb[y1:y2, x1:x2], min(1.0, region.scale)
    size = max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))
    if size != (x2 - x1, y2 - y1):
        cut = np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    grow = np.array(size) / (x2 - x1, y2 - y1)  # sides are whole pixels, so the two may differ a little
    return cut, np.concatenate([(xywh[:2] - (x1, y1)) * grow, xywh[2:] * grow])


def _pictures(footage: Footage, unreadable: list[str] | None) -> Iterator[tuple[int, Image]]:
    """Every picture with its number, of footage that shows its target; why some cannot be read goes to `unreadable`, or
    is raised where that is None."""
    done = 0
    if not footage.is_visible.any():
        return
    try:
        for rgb in footage.read_all():
            yield done, rgb
            done += 1
    except SightlineError:
        if unreadable is None or done == len(footage):
            raise
    for number in range(done, len(footage)):  # what is left where reading them in order failed
        try:
            rgb = footage.read(number)
        except SightlineError as error:
            if unreadable is None:
                raise
            unreadable.append(str(error))
        else:
            yield number, rgb


def _encode(rgb: Image, quality: int) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def check_is_free(folder: Path) -> None:
    """Raise `DatasetError` unless a folder can be made of this name, or is there and empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "a folder that is not empty" if folder.is_dir() else "a file"
        raise DatasetError(f"{folder}: got {what}; expected a new or empty folder. Choose another name.")


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its name when the block ends well, and vanishes when it does not."""
    check_is_free(folder)
    target = Path(os.path.realpath(folder))
    part = target.with_name(f".{target.name}.{token_hex(4)}.part")
    try:
        part.mkdir()
        yield part
        if target.exists():
            target.rmdir()
        part.rename(target)
    except OSError as error:
        if error.errno not in NO_ROOM and not str(error.filename).startswith(str(part)):
            raise  # of a source, say
        raise DatasetError(
            f"{folder}: cannot be written: got '{error.strerror}'; expected a folder that can be written, with room. "
            "Free some space, or choose another."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


class _Writer:
    """Appends pictures to shards and rows to the tables."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self.sizes: list[int] = []  # of the shards
        self.footage: list[tuple[bytes, int, int]] = []
        self.num_rows = 0
        self._rows = bytearray()  # a million of them as objects would be ten times as large
        self._row_of: dict[bytes, int] = {}  # JPEG's hash -> the first row that has it
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file:
            self._file.close()

    def add(self, jpeg: bytes, xywh: Floats, is_visible: bool) -> None:
        first = self._row_of.setdefault(hashlib.blake2b(jpeg, digest_size=16).digest(), self.num_rows)
        place = self._append(jpeg) if first == self.num_rows else self._place(first)
        self._rows += np.array((*place, xywh, is_visible), ROW).tobytes()
        self.num_rows += 1

    def end(self, name: str) -> None:
        """The rows since the last end are a footage, if there are any."""
        begin = self.footage[-1][2] if self.footage else 0
        if begin < self.num_rows:
            self.footage.append((name.encode(errors="surrogateescape"), begin, self.num_rows))

    def finish(self, about: dict[str, Any]) -> None:
        assert self._file
        self._file.close()
        np.save(self.folder / INDEX, np.frombuffer(self._rows, ROW), allow_pickle=False)
        widest = max(len(name) for name, _, _ in self.footage)
        np.save(self.folder / FOOTAGE, np.array(self.footage, footage_row(max(1, widest))), allow_pickle=False)
        content = {"format": FORMAT, **about, "shards": self.sizes}
        (self.folder / ABOUT).write_text(json.dumps(content, indent=1) + "\n")

    def _append(self, jpeg: bytes) -> tuple[int, int, int]:
        if self._file is None or self.sizes[-1] + len(jpeg) > self.shard_bytes:
            if self._file:
                self._file.close()
            self._file = (self.folder / SHARD.format(len(self.sizes))).open("wb")
            self.sizes.append(0)
        offset = self.sizes[-1]
        self._file.write(jpeg)
        self.sizes[-1] += len(jpeg)
        return len(self.sizes) - 1, offset, len(jpeg)

    def _place(self, row: int) -> tuple[int, int, int]:
        found = bytes(self._rows[row * ROW.itemsize : (row + 1) * ROW.itemsize])
        shard, offset, length, *_ = np.frombuffer(found, ROW)[0].item()
        return shard, offset, length


# Reading


def open_shards(folder: str | Path) -> list[Source]:
    """The sources that were packed into a folder, in their order, with their weights.

    Nothing is loaded but the list of sources: footage is made when it is asked for and pictures are decoded from mapped
    files, so a million of them cost no more than ten. Sources and footage can be sent to other processes, which map the
    files for themselves. Nothing in the files is run. Raises `DatasetError` for a folder that holds no shards of this
    format, or not all of them; reading does so for rows that point to where nothing is.
    """
    folder = Path(folder)
    path = folder / ABOUT
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}")
        sizes = [int(size) for size in content["shards"]]
        shards = Shards(folder.absolute(), len(sizes))
        sources = [_source(shards, told) for told in content["sources"]]
    except OSError as error:
        raise DatasetError(
            f"{path}: got '{error.strerror}'; expected a folder of shards. Check the path, or pack one."
        ) from error
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise DatasetError(
            f"{path}: got {type(error).__name__} '{error}'; expected shards of format {FORMAT}. Pack them again."
        ) from error
    for number, size in enumerate(sizes):
        shard = folder / SHARD.format(number)
        got = shard.stat().st_size if shard.is_file() else None
        if got != size:
            got_bytes = "no such file" if got is None else f"{got:,} bytes"
            raise DatasetError(f"{shard}: got {got_bytes}; expected {size:,} bytes. Copy the folder again.")
    return sources


def _source(shards: Shards, told: dict[str, Any]) -> Source:
    first, end = told["footage"]
    kind, weight = told["kind"], float(told["weight"])
    if kind not in ("clips", "stills") or not 0 <= weight < math.inf or not 0 <= first <= end <= len(shards.footage):
        raise ValueError(f"a source of {len(shards.footage)} footage: {told}")
    return Source(str(told["name"]), kind, PackedFootage(shards, range(first, end)), weight)


@dataclass(frozen=True)
class Shards:
    """The mapped files of a folder. A process that gets a copy maps them for itself; a fork has the same maps, which
    nobody writes to."""

    folder: Path
    num_shards: int

    @cached_property
    def footage(self) -> NDArray[Any]:
        """The rows of footage.npy."""
        table = self._table(FOOTAGE)
        name = table.dtype.fields and table.dtype.fields.get("name")
        if not name or table.dtype != footage_row(name[0].itemsize):
            raise self.wrong(FOOTAGE, f"rows of {table.dtype}")
        return table

    @cached_property
    def index(self) -> NDArray[Any]:
        """The rows of index.npy."""
        table = self._table(INDEX)
        if table.dtype != ROW:
            raise self.wrong(INDEX, f"rows of {table.dtype}")
        return table

    @cached_property
    def shard(self) -> Callable[[int], NDArray[np.uint8]]:
        """The bytes of a shard, by number."""

        def map_file(number: int) -> NDArray[np.uint8]:
            name = SHARD.format(number)
            try:
                return np.asarray(np.memmap(self.folder / name, np.uint8, "r"))
            except (OSError, ValueError) as error:  # the latter for an empty file
                raise self.wrong(name, f"'{error}'") from error

        return lru_cache(MAX_MAPPED)(map_file)

    def __reduce__(self) -> tuple[Any, ...]:
        return Shards, (self.folder, self.num_shards)

    def read(self, rows: range, index: int) -> Image:
        """One of the pictures of these rows."""
        row = rows[index]
        shard, offset, length, *_ = self.index[row].item()
        jpeg = self.shard(shard)[offset : offset + length].tobytes() if shard < self.num_shards else b""
        if len(jpeg) < length or not jpeg.startswith(JPEG):
            raise self.wrong(INDEX, f"row {row}: no JPEG of {length:,} bytes at {offset:,} of shard {shard}")
        return decode_image(jpeg, f"{self.folder / SHARD.format(shard)}, byte {offset:,}")

    def read_all(self, rows: range) -> Iterator[Image]:
        """All the pictures of these rows."""
        return (self.read(rows, index) for index in range(len(rows)))

    def _table(self, name: str) -> NDArray[Any]:
        try:
            table = np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # what numpy makes of a file that is no table is of many kinds
            raise self.wrong(name, f"'{error}'") from error
        if not isinstance(table, np.ndarray) or table.ndim != 1:
            raise self.wrong(name, "no table")
        return table

    def wrong(self, name: str, got: str) -> DatasetError:
        return DatasetError(f"{self.folder / name}: got {got}; expected what packing wrote. Copy the folder again.")


@dataclass(frozen=True, eq=False)
class PackedFootage(Sequence[Footage]):
    """Footage of these rows of footage.npy, made when it is asked for; a slice is a smaller one."""

    shards: Shards
    numbers: range

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Footage: ...
    @overload
    def __getitem__(self, index: slice) -> PackedFootage: ...
    def __getitem__(self, index: int | slice) -> Footage | PackedFootage:
        if isinstance(index, slice):
            return PackedFootage(self.shards, self.numbers[index])
        number = self.numbers[index]
        name, begin, end = self.shards.footage[number].item()
        if not 0 <= begin < end <= len(self.shards.index):
            raise self.shards.wrong(FOOTAGE, f"row {number}: rows {begin} to {end} of {len(self.shards.index)}")
        picture, rows = self.shards.index[begin:end], range(begin, end)
        xywh = np.array(picture["xywh"])  # aligned, and no map that is copied to other processes
        is_visible = picture["is_visible"] & has_area(xywh)
        read, read_all = partial(self.shards.read, rows), partial(self.shards.read_all, rows)
        return Footage(name.decode(errors="surrogateescape"), xywh, is_visible, read, read_all)
