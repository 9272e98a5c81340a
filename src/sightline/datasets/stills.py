"""One image with its boxes, and Tiny ImageNet, whose images are in one zip file."""

from __future__ import annotations

import csv
import os
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.errors import DatasetError
from sightline.imaging.frames import decode_image


@dataclass(frozen=True, eq=False)
class Still:
    """One image and its boxes, `xywh` (M, 4) float64 in its own pixels.

    `category` (M,) are the ids of their classes, `ignored_xywh` (K, 4) regions that hold objects nobody boxed one by
    one; both None where the reader leaves them out.
    """

    path: Path
    xywh: NDArray[np.float64]
    category: NDArray[np.int64] | None = None
    ignored_xywh: NDArray[np.float64] | None = None


def read_zipped_stills(folder: Path) -> list[Still]:
    """Tiny ImageNet, one box per 64 x 64 image: `boxes.csv`, and `images.zip`, in which `path` is an image's name.

    `read_zipped` decodes it. Raises `DatasetError` for a folder that lacks either, or whose rows and images do not fit.
    """
    boxes: dict[str, list[float]] = {}
    try:
        with zipfile.ZipFile(folder / "images.zip") as archive:
            members = {Path(name).name: name for name in archive.namelist()}
        with (folder / "boxes.csv").open(newline="") as rows:
            for row in csv.DictReader(rows):
                boxes[members[Path(row["file"]).name]] = [float(row[key]) for key in ("x", "y", "w", "h")]
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile) as error:
        raise _not_tiny_imagenet(folder, error) from error
    return [Still(Path(name), np.array([box])) for name, box in boxes.items()]


def read_zipped(archive: Path, member: Path) -> NDArray[np.uint8]:
    """An image in a zip file as `read_image` gives it. Raises `DatasetError`, or `VideoError` for what is no image."""
    try:
        encoded = _archive(archive, os.getpid()).read(member.as_posix())
    except (OSError, LookupError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"{archive}: {error!r}; expected the image {member} in it. Replace the file.") from error
    return decode_image(encoded, archive / member)


@lru_cache(maxsize=8)
def _archive(path: Path, _process: int) -> zipfile.ZipFile:
    """An open file for each process: after a fork two would share one position in it."""
    return zipfile.ZipFile(path)


def _not_tiny_imagenet(folder: Path, error: Exception) -> DatasetError:
    return DatasetError(f"{folder}: {error!r}; expected boxes.csv beside images.zip. Check the folder.")
