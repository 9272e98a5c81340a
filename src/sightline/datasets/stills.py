"""Images with boxes in the COCO layout: `annotations.json` beside `img/`."""

from __future__ import annotations

import csv
import json
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.errors import DatasetError


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


def read_stills(folder: Path) -> list[Still]:
    """All images of a folder that have at least one box with an area; crowd regions are left out."""
    path = folder / "annotations.json"
    try:
        content = json.loads(path.read_text())
        boxes: dict[int, list[list[float]]] = defaultdict(list)
        for row in content["annotations"]:
            if not row.get("iscrowd", 0) and row["bbox"][2] > 0 and row["bbox"][3] > 0:
                boxes[row["image_id"]].append(row["bbox"])
        names = {row["id"]: row["file_name"] for row in content["images"]}
        return [Still(folder / "img" / names[key], np.array(rows, dtype=np.float64)) for key, rows in boxes.items()]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DatasetError(f"{path}: {error!r}; expected COCO images and annotations. Check the file.") from error


def read_tiny_imagenet(folder: Path, extract_to: Path) -> list[Still]:
    """Tiny ImageNet with one box per 64 x 64 image: `boxes.csv` and `images.zip`, unpacked once into `extract_to`."""
    boxes: dict[str, list[float]] = {}
    try:
        with (folder / "boxes.csv").open(newline="") as rows:
            for row in csv.DictReader(rows):
                boxes[row["file"]] = [float(row[key]) for key in ("x", "y", "w", "h")]
        with zipfile.ZipFile(folder / "images.zip") as archive:
            members = {Path(member.filename).name: member for member in archive.infolist()}
            paths = {}
            for name in boxes:
                member = members[Path(name).name]
                paths[name] = path = extract_to / member.filename
                if not path.exists() or path.stat().st_size != member.file_size:  # an earlier run may have been cut
                    archive.extract(member, extract_to)
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{folder}: {error!r}; expected boxes.csv beside images.zip. Check the folder.") from error
    return [Still(paths[name], np.array([box])) for name, box in boxes.items()]
