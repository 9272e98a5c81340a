"""Small trees of files for the tests of data sets: texts, and images of a given size."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

WIDTH, HEIGHT = 64, 48
PALETTE = ((0, 0, 0), (128, 0, 0), (0, 128, 0))
FOUR = "1,2,30,40\n1.5,2.5,30,40\n5,6,10,12\n7,8,9,10\n"


def write(path: Path, content: str | bytes | Any) -> Path:
    """A file with its folders: text, bytes, or anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@cache
def image_bytes(suffix: str = ".jpg", width: int = WIDTH, height: int = HEIGHT) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


def images(folder: Path, names: Iterable[str], width: int = WIDTH, height: int = HEIGHT) -> None:
    """Image files, written from the last to the first, so that nothing is in order by chance."""
    for name in reversed(list(names)):
        write(folder / name, image_bytes(Path(name).suffix, width, height))


def numbered(count: int, pattern: str = "{:08d}.jpg", first: int = 1) -> list[str]:
    return [pattern.format(number) for number in range(first, first + count)]


def seqinfo(length: int, name: str = "seq", image_folder: str = "img1") -> str:
    return (
        f"[Sequence]\nname={name}\nimDir={image_folder}\nframeRate=30\nseqLength={length}\nimWidth={WIDTH}\n"
        f"imHeight={HEIGHT}\nimExt=.jpg\n"
    )


def mot_sequence(folder: Path, length: int = 5, gt: str | None = None, pattern: str = "{:06d}.jpg") -> Path:
    """A sequence in MOTChallenge's layout; by default id 1 in every frame and id 2 in the first."""
    write(folder / "seqinfo.ini", seqinfo(length, folder.name))
    if gt is None:
        gt = "".join(f"{frame},1,{frame},2,10,20,1,1,1\n" for frame in range(1, length + 1)) + "1,2,30,5,8,9,1,1,0.5\n"
    write(folder / "gt" / "gt.txt", gt)
    images(folder / "img1", numbered(length, pattern))
    return folder


def palette_png(indices: np.ndarray, palette: Iterable[tuple[int, int, int]] = PALETTE) -> bytes:
    """A PNG of palette indices, as DAVIS has them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = indices.shape
    rows = b"".join(b"\x00" + row.astype(np.uint8).tobytes() for row in indices)
    parts = [
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        chunk(b"PLTE", bytes(side for colour in palette for side in colour)),
        chunk(b"IDAT", zlib.compress(rows)),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def davis_tree(root: Path) -> None:
    """Two sequences of three frames: of two objects, the second not in frame 1, and of one."""
    write(root / "ImageSets" / "2017" / "val.txt", "bike\ncow\n")
    for name, count in (("bike", 2), ("cow", 1)):
        images(root / "JPEGImages" / "480p" / name, numbered(3, "{:05d}.jpg", 0))
        for frame in range(3):
            indices = np.zeros((10, 12), dtype=np.uint8)
            indices[2:5, 3 + frame : 7 + frame] = 1
            if count == 2 and frame != 1:
                indices[7, 8] = indices[9, 11] = 2
            write(root / "Annotations" / "480p" / name / f"{frame:05d}.png", palette_png(indices))


def kitti_tree(root: Path, images_there: int = 3) -> None:
    """Sequence 0007 with a car in frame 0 and a region in frame 2."""
    rows = "0 0 Car 0 1 -1.5 10 20 40.5 45 1 2 3 4 5 6 7\n2 -1 DontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1 -1 -1 -1\n"
    write(root / "training" / "label_02" / "0007.txt", rows)
    images(root / "training" / "image_02" / "0007", numbered(images_there, "{:06d}.png", 0))


def coco_json(**more: Any) -> dict[str, Any]:
    """Three images: one box, one box and a crowd, none."""
    return {
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
        "images": [
            {"id": 9, "file_name": "000000000009.jpg", "width": WIDTH, "height": HEIGHT},
            {"id": 4, "file_name": "000000000004.jpg", "width": WIDTH, "height": HEIGHT},
            {"id": 5, "file_name": "000000000005.jpg", "width": WIDTH, "height": HEIGHT},
        ],
        "annotations": [
            {"id": 1, "image_id": 4, "category_id": 18, "bbox": [1, 2, 3, 4], "area": 7.5, "iscrowd": 0},
            {"id": 2, "image_id": 9, "category_id": 1, "bbox": [5, 6, 7, 8], "area": 50, "iscrowd": 0},
            {"id": 3, "image_id": 4, "category_id": 1, "bbox": [0, 0, 60, 40], "area": 900, "iscrowd": 1},
        ],
    } | more


def video_json(frame: str, track: str) -> dict[str, Any]:
    """Two videos of two frames and one."""
    content = coco_json(
        videos=[{"id": 3, "name": "train/one"}, {"id": 7, "name": "train/two"}],
        annotations=[
            {"id": 1, "image_id": 4, "category_id": 18, "bbox": [1, 2, 3, 4], track: 12},
            {"id": 2, "image_id": 9, "category_id": 18, "bbox": [5, 6, 7, 8], track: 12},
            {"id": 3, "image_id": 5, "category_id": 1, "bbox": [0, 0, 6, 4], track: 13, "iscrowd": 1},
        ],
    )
    for row, (video, index) in zip(content["images"], ((3, 60), (3, 30), (7, 0)), strict=True):
        row |= {"video_id": video, frame: index, "file_name": f"train/one/{row['file_name']}"}
    return content
